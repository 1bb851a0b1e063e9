"""Environments of a lock: made once, looked through before use, and refused with the reason."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest

from modelmill.errors import IndexUnreachable, InterpreterMissing, LockUnsatisfiable
from modelmill.registry.environment import Wanted, environment_for, find_python
from modelmill.registry.wheel import build_wheel

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
