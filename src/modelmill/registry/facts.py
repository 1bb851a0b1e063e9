"""The code that a run was made with: the files that were really imported, and the commit; kept once, shared by its versions."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import msgspec

from modelmill.errors import BlobBroken, UsageError
from modelmill.names import Digest, digest_of, parse_digest
from modelmill.store.blobs import Blobs
from modelmill.store.files import temporary, told

_GIT_S = 10
_DIFF_BYTES = 4 << 20


class Archive(msgspec.Struct, frozen=True):
    """The user's files that were really imported: their paths below the project, and their contents' digests."""

    files: dict[str, Digest]


class Commit(NamedTuple):
    """The state of the project's version control."""

    commit: str
    """Empty when the project is under no version control."""
    diff: Digest | None
    """What differs from that commit, a blob; None when nothing does."""


def capture_code(blobs: Blobs, root: Path, files: Iterable[Path]) -> Digest:
    """Keep the files, which lie below `root`, and return the digest of their archive; the same files, the same digest."""
    places = {_relative(root, path): path for path in files}
    names = sorted(places)
    with told(root):
        contents = [places[name].read_bytes() for name in names]
    digests = blobs.put(contents)
    # No commit and no time in it: code that did not change keeps its digest, and its models need no building.
    archive = msgspec.msgpack.encode(Archive(dict(zip(names, digests, strict=True))))
    return blobs.put([archive])[0]


def read_archive(blobs: Blobs, digest: Digest) -> Archive:
    """Return the list of an archive's files; a path that leaves its folder is refused."""
    try:
        archive = msgspec.msgpack.decode(blobs.get(digest), type=Archive)
    except msgspec.MsgspecError as error:
        raise BlobBroken(f"code archive `{digest[:12]}` cannot be read", got=str(error)) from error
    for name, content in archive.files.items():
        if not _is_plain(name):
            raise BlobBroken(f"code archive `{digest[:12]}` holds a path that leaves its folder", got=repr(name[:80]))
        parse_digest(content)
    return archive


def extract_code(blobs: Blobs, digest: Digest, into: Path) -> Path:
    """Unpack an archive to ``into/<digest>`` and return that folder, which appears complete or not at all.

    A folder that is there already is compared with the archive, and replaced when somebody has changed it.
    """
    archive = read_archive(blobs, digest)
    folder = into / parse_digest(digest)
    if _is_unpacked(folder, archive):
        return folder
    scratch = temporary(into)
    with told(into):
        try:
            _unpack(blobs, archive, scratch)
            _replace_folder(folder, scratch, archive)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def capture_commit(blobs: Blobs, root: Path) -> Commit:
    """Return the project's commit and keep what differs from it; without git, or outside it, both are empty."""
    commit = _git(root, "rev-parse", "HEAD").decode().strip()
    if not commit:
        return Commit("", None)
    # An attribute of the repository may name a program to show files with: none is run here.
    diff = _git(root, "diff", "--no-textconv", "--no-ext-diff", "--no-color", "HEAD", "--", ".")[:_DIFF_BYTES]
    return Commit(commit, blobs.put([diff])[0] if diff else None)


def _relative(root: Path, path: Path) -> str:
    try:
        name = path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError as error:
        raise UsageError(f"`{path}` does not lie in the project", where=str(root)) from error
    return name


def _is_plain(name: str) -> bool:
    """Return whether a path of an archive stays in the folder that it is unpacked to."""
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") and "\\" not in part and "\0" not in part for part in parts)
    return plain and not PurePosixPath(name).is_absolute()


def _is_unpacked(folder: Path, archive: Archive) -> bool:
    if not folder.is_dir():
        return False
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py") if path.is_file()}
    if not there <= archive.files.keys():
        return False
    return all(_holds(folder / name, digest) for name, digest in archive.files.items())


def _holds(path: Path, digest: Digest) -> bool:
    return path.is_file() and not path.is_symlink() and digest_of(path.read_bytes()) == digest


def _unpack(blobs: Blobs, archive: Archive, folder: Path) -> None:
    folder.mkdir()
    for name, digest in archive.files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(blobs.get(digest))


def _replace_folder(folder: Path, scratch: Path, archive: Archive) -> None:
    """Give an unpacked archive its name, unless another process was first with the same."""
    if folder.exists() and not _is_unpacked(folder, archive):
        # Somebody may be importing from it at this moment: it goes as one step, too.
        aside = temporary(folder.parent)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    try:
        scratch.rename(folder)
    except OSError:
        if not _is_unpacked(folder, archive):
            raise


def _git(root: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(  # noqa: S603 - the arguments are ours
            ["git", "-C", str(root), *arguments],  # noqa: S607 - the user's own git
            capture_output=True,
            timeout=_GIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""
