"""modelmill itself as a wheel, made of what is installed: a version is rebuilt by the modelmill that built it.

The same files give the same bytes: entries are in the order of their names and carry no time.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent
_KEPT = ("METADATA", "WHEEL", "entry_points.txt")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_WHEEL = "Wheel-Version: 1.0\nGenerator: modelmill\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel() -> tuple[str, bytes]:
    """Return the name and the bytes of a wheel of the modelmill that runs."""
    version = metadata.version("modelmill")
    info = f"modelmill-{version}.dist-info"
    files = dict(_package_files()) | {f"{info}/{name}": content for name, content in _info_files()}
    lines = [f"{name},sha256={_hash(content)},{len(content)}" for name, content in sorted(files.items())]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    return f"modelmill-{version}-py3-none-any.whl", _zipped(files)


def _package_files() -> Iterator[tuple[str, bytes]]:
    for path in _PACKAGE.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"modelmill/{path.relative_to(_PACKAGE).as_posix()}", path.read_bytes()


def _info_files() -> Iterator[tuple[str, bytes]]:
    distribution = metadata.distribution("modelmill")
    for name in _KEPT:
        text = _WHEEL if name == "WHEEL" else distribution.read_text(name)
        if text:
            yield name, text.encode()


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()
