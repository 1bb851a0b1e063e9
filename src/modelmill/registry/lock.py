"""The lock of a run: the packages that its code needed, exactly, and modelmill itself as its wheel.

What counts is what was installed when the run began, not what a file asked for. The packages are those that the project's
files import, those that modelmill requires, and all that these require; whatever else is installed beside them changes
nothing. Hashes are those of `uv.lock` or `pylock.toml`, where the project has one: an installed package no longer has any.
"""

from __future__ import annotations

import ast
import os
import platform
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from modelmill.errors import BlobBroken, ModelmillError
from modelmill.names import Digest, digest_of, parse_digest
from modelmill.registry.wheel import build_wheel
from modelmill.store.blobs import Blobs
from modelmill.store.files import temporary, told

FORMAT = 2
OWN = "modelmill"
_ARRAYS = "numpy"
"""Every answer goes through it, and most fitted objects hold some of its arrays."""
_GRAPHS = {
    "sklearn": ("onnxruntime", "onnx", "skl2onnx"),
    "torch": ("onnxruntime", "onnx", "onnxscript"),
    ".onnx": ("onnxruntime", "onnx"),
}
"""What writes the objects of a library, or files with this ending, as graphs."""
_LOCK_FILES = ("uv.lock", "pylock.toml")


class Package(msgspec.Struct, frozen=True, order=True):
    """One installed distribution."""

    name: str
    version: str
    hashes: tuple[str, ...] = ()
    """``sha256:...`` of the files that may be installed here; none where no lock file knows it."""

    @property
    def requirement(self) -> str:
        """Return the package as a line of a requirements file."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash={one}" for one in self.hashes)])


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """A package environment that can be made again."""

    format: int = FORMAT
    python: str
    """``3.11.7``"""
    implementation: str
    packages: tuple[Package, ...]
    """All but modelmill itself, in the order of their names."""
    wheel: Digest
    """Of modelmill, a blob."""
    wheel_name: str
    origin: str = ""
    """The lock file that knew the hashes; empty where there was none."""
    needed: tuple[str, ...] | UnsetType = UNSET
    """Those of the packages that the project's files need, with all that these require: what fitted objects are made of.

    The others are modelmill's own. A lock that does not say is one of a modelmill before it was asked.
    """


def capture_lock(blobs: Blobs, root: Path, files: Sequence[Path], cache: Path) -> Digest:
    """Keep the lock of what runs now, and return its digest: the same packages, the same digest.

    `files` are the project's own that were imported. Finding out takes half a second; `cache` is a folder that remembers
    the answer for as long as neither the packages, the imports nor the lock file change.
    """
    imports = needed_imports(files)
    origin = _lock_file(root)
    asked = [*sorted(imports), *_installed(), digest_of(origin.read_bytes()) if origin else "", sys.version]
    place = cache / "locks" / digest_of("\n".join(asked).encode())
    known = _remembered(blobs, place)
    if known is not None:
        return known
    lock, wheel = make_lock(root, files)
    _, digest = blobs.put([wheel, msgspec.json.encode(lock, order="deterministic")])
    _remember(place, digest, lock.wheel)
    return digest


def make_lock(root: Path, files: Sequence[Path]) -> tuple[Lock, bytes]:
    """Return the lock of what runs now, and modelmill as a wheel; see `capture_lock`."""
    origin = _lock_file(root)
    wheel_name, wheel = build_wheel()
    needed = _providers(imported_names(files)) - {OWN}
    lock = Lock(
        python=platform.python_version(),
        implementation=sys.implementation.name,
        packages=tuple(_packages(_providers(needed_imports(files)), _known_hashes(origin))),
        wheel=digest_of(wheel),
        wheel_name=wheel_name,
        origin=origin.name if origin else "",
        needed=tuple(sorted({name for name, _ in _required_by({_ARRAYS, *needed})})),
    )
    return lock, wheel


def _lock_file(root: Path) -> Path | None:
    return next((root / name for name in _LOCK_FILES if (root / name).is_file()), None)


def read_lock(blobs: Blobs, digest: Digest) -> Lock:
    """Return a recorded lock; raises `BlobBroken` for bytes that are none."""
    try:
        return msgspec.json.decode(blobs.get(digest), type=Lock)
    except msgspec.MsgspecError as error:
        raise BlobBroken(
            f"lock `{digest[:12]}` cannot be read",
            got=str(error)[:120],
            likely="it was recorded by a modelmill that did not keep all that an environment needs",
        ) from error


def lock_differences(recorded: Lock, here: Lock) -> list[str]:
    """Return what differs between two locks, a line each: ``numpy 2.3.1 / 2.4.0``."""
    found = [] if recorded.python == here.python else [f"python {recorded.python} / {here.python}"]
    before, now = ({package.name: package.version for package in lock.packages} for lock in (recorded, here))
    found += [
        f"{name} {before.get(name, 'absent')} / {now.get(name, 'absent')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if recorded.wheel != here.wheel:
        found.append(f"modelmill {_build_of(recorded)} / {_build_of(here)}")
    return found


def differences_here(lock: Lock) -> list[str]:
    """Return in what this process differs from a lock that a fitted object would notice, a line each; empty where in nothing.

    That is another Python than 3.x of the lock, whose byte code is another one, or another version of a package that the
    recorded code needs. A lock that does not say which these are is taken for no other: its versions were always answered here.
    """
    if lock.needed is UNSET:
        return []
    minor, here = (".".join(version.split(".")[:2]) for version in (lock.python, platform.python_version()))
    found = [] if (lock.implementation, minor) == (sys.implementation.name, here) else [f"python {minor} / {here}"]
    versions = {package.name: package.version for package in lock.packages}
    pairs = ((name, versions.get(name, ""), _installed_version(name)) for name in lock.needed)
    return found + [f"{name} {then or 'absent'} / {now or 'absent'}" for name, then, now in pairs if then != now]


def _installed_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _build_of(lock: Lock) -> str:
    return f"{lock.wheel_name.split('-')[1]} ({lock.wheel[:8]})"


# ------------------------------------------------------------------ which packages


def imported_names(files: Iterable[Path]) -> set[str]:
    """Return the first names of all modules that these files import, also inside of functions."""
    found: set[str] = set()
    for path in files:
        if path.suffix != ".py":
            continue
        with told(path):
            tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names)


def needed_imports(files: Sequence[Path]) -> set[str]:
    """Return the first names of all modules that a build of these files imports.

    What writes their objects as graphs is among them where it is installed: it decides what answers for a version.
    """
    found = imported_names(files)
    writers = [_GRAPHS[source] for source in _GRAPHS.keys() & (found | {path.suffix for path in files})]
    return found.union(*(some for some in writers if all(find_spec(name) is not None for name in some)))


def _providers(imports: set[str]) -> set[str]:
    """Return the installed distributions that these modules come from."""
    providers = metadata.packages_distributions()
    return {canonicalize_name(name) for module in imports for name in providers.get(module, ())}


def _packages(needed: set[str], hashes: Mapping[tuple[str, str], tuple[str, ...]]) -> Iterator[Package]:
    for name, version in sorted(_required_by({OWN, *needed})):
        if name != OWN:
            yield Package(name, version, hashes.get((name, version), ()))


def _required_by(names: Iterable[str]) -> set[tuple[str, str]]:
    """Return distributions with all that they require here: (name, version); what is not installed is not among them."""
    found: dict[str, str] = {}
    pending = [(name, "") for name in names]
    seen: set[tuple[str, str]] = set()
    while pending:
        name, extra = pending.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = distribution.version
        pending += _requirements(distribution, extra)
    return set(found.items())


def _requirements(distribution: metadata.Distribution, extra: str) -> Iterator[tuple[str, str]]:
    for text in distribution.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for wanted in ("", *requirement.extras):
                yield canonicalize_name(requirement.name), wanted


def _installed() -> list[str]:
    """Return the names of all folders that describe an installed distribution; they hold its version.

    modelmill's own files are told apart by their sizes and times: where it is worked on, its version stays the same.
    """
    names = [name for folder in sys.path if os.path.isdir(folder) for name in os.listdir(folder)]  # noqa: PTH112, PTH208 - thousands
    own = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in _own_files()]
    return sorted(name for name in names if name.endswith((".dist-info", ".egg-info"))) + own


def _own_files() -> list[Path]:
    return sorted(Path(__file__).parent.parent.rglob("*.py"))


# ------------------------------------------------------------------ hashes


def _known_hashes(origin: Path | None) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the hashes that a lock file gives: (name, version) -> those of the files that may be installed here."""
    if origin is None:
        return {}
    try:
        declared = tomllib.loads(origin.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return {}  # a file that somebody else broke: its hashes are not known, the packages are
    entries: list[dict[str, Any]] = declared.get("package") or declared.get("packages") or []
    tags = frozenset(sys_tags())
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for entry in entries:
        files = [*entry.get("wheels", ()), *([entry["sdist"]] if isinstance(entry.get("sdist"), dict) else [])]
        hashes = {text for file in files if _fits(file, tags) and (text := _hash_of(file))}
        if hashes and isinstance(entry.get("version"), str):
            found[canonicalize_name(entry["name"]), entry["version"]] = tuple(sorted(hashes))
    return found


def _fits(file: Mapping[str, Any], tags: frozenset[Any]) -> bool:
    name = str(file.get("name") or file.get("url") or file.get("path") or "").rpartition("/")[2]
    if not name.endswith(".whl"):
        return True
    try:
        return bool(parse_wheel_filename(name)[3] & tags)
    except ValueError:
        return False


def _hash_of(file: Mapping[str, Any]) -> str:
    if isinstance(file.get("hash"), str):
        return str(file["hash"])
    known = file.get("hashes")
    return f"sha256:{known['sha256']}" if isinstance(known, dict) and "sha256" in known else ""


# ------------------------------------------------------------------ the cache


def _remembered(blobs: Blobs, place: Path) -> Digest | None:
    try:
        lock, wheel = map(parse_digest, place.read_text(encoding="ascii").split())
        blobs.open(lock)
        blobs.open(wheel)
    except (OSError, ValueError, ModelmillError):  # nothing is remembered, or what was is gone
        return None
    return lock


def _remember(place: Path, *digests: Digest) -> None:
    path = temporary(place.parent)
    with told(place):
        path.write_text(" ".join(digests), encoding="ascii")
        path.replace(place)
