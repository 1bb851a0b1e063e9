"""The machine of a run: what bit-for-bit reproduction depends on beside the packages, and what differs between two."""

from __future__ import annotations

import getpass
import locale
import os
import platform
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import msgspec

from modelmill.names import Digest
from modelmill.store.blobs import Blobs

Facts = Mapping[str, str]
"""Label -> text."""

_MATTERS = ("machine", "processor", "features", "BLAS kernel", "threads", "OS", "system", "byte order")
"""What may change a number; the others are told beside it."""
_THREADS = "one a worker"


def capture_host(blobs: Blobs) -> Digest:
    """Keep the facts of this machine."""
    return blobs.put([msgspec.json.encode(host_facts(), order="deterministic")])[0]


def read_host(blobs: Blobs, digest: Digest) -> Facts:
    """Return the facts of a machine."""
    found: dict[str, object] = msgspec.json.decode(blobs.get(digest))
    return {name: str(value) for name, value in found.items()}


def host_facts() -> dict[str, str]:
    """Return what this machine is, as far as it may matter to a number."""
    cpu = _cpu()
    return {
        "machine": platform.machine(),
        "processor": cpu.get("model name", platform.processor()),
        "family": " ".join(cpu.get(name, "") for name in ("vendor_id", "cpu family", "model")).strip(),
        "features": " ".join(sorted(cpu.get("flags", cpu.get("Features", "")).split())),
        "cores": str(os.cpu_count()),
        "BLAS kernel": blas_kernel(),
        "threads": _THREADS,
        "OS": _release(),
        "system": platform.platform(),
        "locale": ".".join(part or "C" for part in locale.getlocale()),
        "time zone": os.environ.get("TZ", "") or "/".join(time.tzname),
        "byte order": sys.byteorder,
        "host": platform.node(),
        "user": user_name(),
    }


def user_name() -> str:
    """Return who runs this: the login name, or the number of one who has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def blas_kernel() -> str:
    """Return what the linear algebra of numpy runs on, such as ``openblas SkylakeX``; it is chosen when numpy is loaded."""
    import_module("numpy")
    found = {
        f"{one.get('internal_api', '')} {one.get('architecture', '')}".strip()
        for one in import_module("threadpoolctl").threadpool_info()
        if one.get("user_api") == "blas"
    }
    return ", ".join(sorted(found))


def host_differences(recorded: Facts, here: Facts) -> list[str]:
    """Return what differs between two machines and may change a number, a line each: ``BLAS kernel Haswell / SkylakeX``."""
    found = []
    for name in _MATTERS:
        one, other = recorded.get(name, ""), here.get(name, "")
        if one == other:
            continue
        if name == "features":
            one, other = _only(one, other), _only(other, one)
        found.append(f"{name} {one or 'none'} / {other or 'none'}")
    return found


def _only(features: str, others: str) -> str:
    return " ".join(sorted(set(features.split()) - set(others.split())))


def _cpu() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first)}


def _release() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return platform.system()
