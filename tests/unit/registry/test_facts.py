"""Code, package lock and host: kept once, unpacked only where they belong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from modelmill.errors import BlobBroken, UsageError
from modelmill.names import Digest, digest_of
from modelmill.registry.facts import capture_code, capture_commit, extract_code
from modelmill.store.blobs import FolderBlobs
from modelmill.testing.memory import MemoryBlobs


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "parts").mkdir(parents=True)
    (root / "delays.py").write_text("import parts.features\n")
    (root / "parts" / "features.py").write_text("x = 1\n")
    return root


def files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py"))


def test_code_is_unpacked_as_it_was(project: Path, tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    digest = capture_code(blobs, project, files(project))
    folder = extract_code(blobs, digest, tmp_path / "code")
    assert {path.relative_to(folder).as_posix(): path.read_text() for path in files(folder)} == {
        "delays.py": "import parts.features\n",
        "parts/features.py": "x = 1\n",
    }


def test_the_same_files_are_the_same_code(project: Path, tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    digest = capture_code(blobs, project, files(project))
    moved = project.rename(tmp_path / "elsewhere")
    assert capture_code(blobs, moved, files(moved)[::-1]) == digest
    (moved / "parts" / "features.py").write_text("x = 2\n")
    assert capture_code(blobs, moved, files(moved)) != digest


@pytest.mark.parametrize("harm", ["changed", "missing", "added"])
def test_code_that_somebody_changed_is_unpacked_again(project: Path, tmp_path: Path, harm: str) -> None:
    blobs = MemoryBlobs()
    digest = capture_code(blobs, project, files(project))
    folder = extract_code(blobs, digest, tmp_path / "code")
    place = folder / ("numpy.py" if harm == "added" else "delays.py")
    place.write_text("evil = True\n")
    if harm == "missing":
        place.unlink()
    assert len(files(extract_code(blobs, digest, tmp_path / "code"))) == 2
    assert (folder / "delays.py").read_text() == "import parts.features\n"


def test_unpacked_code_is_left_as_it_is(project: Path, tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    digest = capture_code(blobs, project, files(project))
    before = extract_code(blobs, digest, tmp_path / "code").stat()
    assert extract_code(blobs, digest, tmp_path / "code").stat().st_ino == before.st_ino
    assert [path.name for path in (tmp_path / "code").iterdir()] == [digest]


@pytest.mark.parametrize(
    "name", ["../evil.py", "/etc/evil.py", "a/../../evil.py", "", "a//b.py", "./a.py", "a\\b.py", "a\0.py"]
)
def test_a_path_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    blobs = MemoryBlobs()
    (content,) = blobs.put([b"evil"])
    (archive,) = blobs.put([msgspec.msgpack.encode({"files": {name: content}})])
    with pytest.raises(BlobBroken, match="leaves its folder"):
        extract_code(blobs, archive, tmp_path / "code")
    assert not list(tmp_path.rglob("evil.py"))


EXTRACT = """
import pathlib, sys
from modelmill.registry.facts import extract_code
from modelmill.store.blobs import FolderBlobs
folder = extract_code(FolderBlobs(pathlib.Path(sys.argv[1])), sys.argv[2], pathlib.Path(sys.argv[3]))
assert (folder / "parts" / "features.py").read_text() == "x = 1\\n"
"""


def test_processes_that_unpack_at_once_agree(project: Path, tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    digest = capture_code(blobs, project, files(project))
    command: list[str | Path] = [sys.executable, "-c", EXTRACT, blobs.folder, digest, tmp_path / "code"]
    unpackers = [subprocess.Popen(command) for _ in range(4)]
    assert [unpacker.wait(60) for unpacker in unpackers] == [0] * 4
    assert [path.name for path in (tmp_path / "code").iterdir()] == [digest]


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    (digest,) = blobs.put([b"nonsense"])
    with pytest.raises(BlobBroken, match="cannot be read"):
        extract_code(blobs, digest, tmp_path)


def test_a_missing_file_leaves_nothing_behind(project: Path, tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    digest = capture_code(blobs, project, files(project))
    blobs.delete([digest_of(b"x = 1\n")])
    with pytest.raises(BlobBroken, match="missing"):
        extract_code(blobs, digest, tmp_path / "code")
    assert list((tmp_path / "code").iterdir()) == []


def test_a_file_outside_the_project_is_refused(project: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.py").touch()
    (project / "link.py").symlink_to(tmp_path / "secret.py")
    for path in (tmp_path / "secret.py", project / "link.py", project / ".." / "secret.py"):
        with pytest.raises(UsageError, match="does not lie in the project"):
            capture_code(MemoryBlobs(), project, [path])


def git(root: Path, *arguments: str) -> None:
    names = {f"GIT_{who}_{what}": "x@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **names, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    subprocess.run(["git", "-C", root, *arguments], check=True, capture_output=True, env=environment)


def test_the_commit_and_what_differs_from_it(project: Path) -> None:
    blobs = MemoryBlobs()
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-q", "-m", "first")
    clean = capture_commit(blobs, project)
    assert (len(clean.commit), clean.diff) == (40, None)
    (project / "delays.py").write_text("import os\n")
    changed = capture_commit(blobs, project)
    assert changed.commit == clean.commit
    assert b"+import os" in blobs.get(changed.diff or Digest(""))


def test_a_project_without_version_control_has_no_commit(project: Path) -> None:
    assert capture_commit(MemoryBlobs(), project) == ("", None)
