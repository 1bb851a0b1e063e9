"""Fetch `uv` from PyPI with nothing but the standard library, for a Python that has no pip at all."""

import hashlib
import io
import json
import os
import platform
import sys
import urllib.request
import zipfile
from pathlib import Path

_INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
_ACCEPT = {"Accept": "application/vnd.pypi.simple.v1+json"}


def main() -> None:
    """Put the newest wheel's program into this environment's bin."""
    with urllib.request.urlopen(urllib.request.Request(f"{_INDEX}/uv/", headers=_ACCEPT)) as page:  # noqa: S310 - https
        files = json.load(page)["files"]
    wanted = f"manylinux_2_17_{platform.machine()}" if sys.platform == "linux" else f"macosx_11_0_{platform.machine()}"
    found = [f for f in files if wanted in f["filename"] and f["filename"].endswith(".whl") and not f.get("yanked")]
    if not found:
        sys.exit(f"no wheel of uv for {wanted}")
    newest = max(found, key=lambda f: [int(n) for n in f["filename"].split("-")[1].split(".") if n.isdigit()])
    with urllib.request.urlopen(newest["url"]) as reply:  # noqa: S310 - https, and the digest is checked
        content = reply.read()
    if hashlib.sha256(content).hexdigest() != newest["hashes"]["sha256"]:
        sys.exit("the wheel of uv is not the one that the index names")
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(".data/scripts/uv"))
        place = Path(sys.prefix) / "bin" / "uv"
        place.write_bytes(wheel.read(member))
        place.chmod(0o755)


try:
    main()
except (OSError, KeyError, ValueError) as error:
    sys.exit(f"{_INDEX}: {error}")
