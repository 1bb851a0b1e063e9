"""Environments of a lock: made once, looked through before use, and refused with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pytest

from modelmill.errors import IndexUnreachable, InterpreterMissing, LockUnsatisfiable
from modelmill.names import Digest
from modelmill.registry.environment import (
    Use,
    Wanted,
    environment_for,
    find_python,
    has_environment,
    is_used,
    list_installed,
    remove_environment,
    use_environment,
)
from modelmill.registry.wheel import build_wheel

LOCK = Digest("a" * 64)
HERE = ".".join(map(str, sys.version_info[:3]))


def wanted(*requirements: str, python: str = HERE) -> Wanted:
    return Wanted("a" * 64, python, requirements, *build_wheel())


def test_an_environment_is_made_once(tmp_path: Path) -> None:
    told: list[str] = []
    made = environment_for(tmp_path, wanted(f"packaging=={version('packaging')}"), told.append)
    again = environment_for(tmp_path, wanted("packaging"), told.append)
    assert (made.made, again.made, made.python) == (True, False, again.python)
    assert told == ["making the environment of lock aaaaaaaa   1 packages"]
    code = "import packaging, modelmill; print(packaging.__version__, modelmill.__file__)"
    done = subprocess.run([made.python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split()[0] == version("packaging")
    assert str(tmp_path) in done.stdout


def test_one_that_somebody_changed_is_made_again(tmp_path: Path) -> None:
    place = environment_for(tmp_path, wanted()).python.parent.parent
    (module,) = place.glob("lib/*/site-packages/modelmill/names.py")
    content = module.read_bytes()
    module.unlink()
    module.write_bytes(content.replace(b"sha256", b"sha512"))
    assert environment_for(tmp_path, wanted()).made
    assert module.read_bytes() == content


def test_one_that_was_killed_in_the_making_is_made_again(tmp_path: Path) -> None:
    place = environment_for(tmp_path, wanted()).python.parent.parent
    (place / "finished").unlink()
    assert environment_for(tmp_path, wanted()).made


def test_two_that_want_the_same_make_it_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: environment_for(tmp_path, wanted()).made, range(2)))
    assert sorted(made) == [False, True]


def test_a_version_that_is_gone_is_named_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(LockUnsatisfiable) as refused:
        environment_for(tmp_path / "made", wanted("packaging==0.0.0.1"))
    assert "packaging" in refused.value.parts["got"]
    assert not (tmp_path / "made" / ("a" * 64)).exists()


def test_without_network_and_without_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cold"))
    monkeypatch.setenv("UV_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(IndexUnreachable):
        environment_for(tmp_path / "made", wanted("packaging==25.0"))


def test_without_network_a_warm_cache_suffices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment_for(tmp_path / "warms", wanted(f"packaging=={version('packaging')}"))
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert environment_for(tmp_path / "made", wanted(f"packaging=={version('packaging')}")).made


def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InterpreterMissing) as refused:
        environment_for(tmp_path, wanted(python="3.11.99"))
    assert refused.value.parts["next"] == "uv python install 3.11.99"


def test_the_interpreter_that_runs_is_found_without_asking() -> None:
    done = subprocess.run([find_python(HERE), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == HERE


# ------------------------------------------------------------------ cleaning up


def needs_nothing(_: Digest) -> bool:
    return False


def made(folder: Path) -> Path:
    """Return something in the place of an environment: what it holds is nothing to who removes it."""
    (folder / LOCK).mkdir(parents=True)
    (folder / LOCK / "file").write_bytes(b"1234")
    return folder / LOCK


def test_an_environment_lives_as_long_as_whoever_uses_it(tmp_path: Path) -> None:
    found = environment_for(tmp_path, wanted())
    other = use_environment(tmp_path, LOCK)
    assert other is not None
    found.use.end()
    assert not remove_environment(tmp_path, LOCK, needs_nothing)
    assert is_used(tmp_path, LOCK)
    assert has_environment(tmp_path, LOCK)
    del other  # whoever forgets to end it does so by forgetting it
    assert not is_used(tmp_path, LOCK)
    assert remove_environment(tmp_path, LOCK, needs_nothing)
    assert use_environment(tmp_path, LOCK) is None
    assert [path.suffix for path in tmp_path.iterdir()] in ([".used", ".lock"], [".lock", ".used"])


def test_a_user_that_is_killed_uses_nothing_any_more(tmp_path: Path) -> None:
    made(tmp_path)
    code = "import sys; from pathlib import Path; from modelmill.registry.environment import Use; "
    code += f"use = Use(Path({str(tmp_path)!r}), {LOCK!r}); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        user.stdout.readline()
        assert not remove_environment(tmp_path, LOCK, needs_nothing)
        user.kill()
    assert remove_environment(tmp_path, LOCK, needs_nothing)


def test_what_is_needed_after_all_stays(tmp_path: Path) -> None:
    place = made(tmp_path)
    assert not remove_environment(tmp_path, LOCK, lambda lock: lock == LOCK)
    assert place.is_dir()


def test_nothing_goes_while_it_is_used_however_both_come_together(tmp_path: Path) -> None:
    missed, removed = [], []
    ends = time.monotonic() + 60

    def use_it(_: int) -> None:
        for _ in range(300):
            use = Use(tmp_path, LOCK)
            (tmp_path / LOCK).mkdir(exist_ok=True)
            for _ in range(3):
                os.sched_yield()
                missed.extend([] if (tmp_path / LOCK).is_dir() else [1])
            use.end()

    def remove_it(users: list[Future[None]]) -> None:
        while not all(user.done() for user in users) and time.monotonic() < ends:
            with suppress(FileNotFoundError):  # it is not there at the moment
                removed.append(remove_environment(tmp_path, LOCK, needs_nothing))

    with ThreadPoolExecutor(4) as pool:
        users = [pool.submit(use_it, number) for number in range(3)]
        pool.submit(remove_it, users).result()
        for user in users:
            user.result()
    assert missed == []
    assert True in removed


def test_what_lies_there_is_told_with_its_last_use_and_what_it_takes(tmp_path: Path) -> None:
    place = made(tmp_path)
    os.link(place / "file", tmp_path / "as in the cache of uv")
    (place / "own").write_bytes(b"12345")
    os.utime(place, (1000, 1000))
    (before,) = list_installed(tmp_path)
    assert (before.lock, before.bytes, before.used_at.timestamp()) == (LOCK, 5, 1000)
    assert not is_used(tmp_path, LOCK)
    assert list(list_installed(tmp_path)) == [before]  # looking is no use of it
    Use(tmp_path, LOCK).end()
    (after,) = list_installed(tmp_path)
    assert after.used_at > before.used_at
