"""`doctor`: each thing that may be wrong with a machine is named, with what to do."""

import os
import socket
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from modelmill.api.doctor import doctor
from modelmill.outcomes import DoctorCheck, no_progress
from modelmill.requests import DoctorRequest
from modelmill.serving.control import NodeInfo, node_file
from modelmill.settings import ServeSettings, Settings
from modelmill.store.files import started_at
from modelmill.store.locks import ProjectLock
from modelmill.store.opening import open_store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return the settings of a project that was just made."""
    (tmp_path / "modelmill.toml").touch()
    return Settings(root=tmp_path, serve=ServeSettings(port=0))


def look(settings: Settings) -> dict[str, DoctorCheck]:
    return {check.name: check for check in doctor(settings, DoctorRequest(), no_progress).checks}


def test_a_healthy_machine_has_no_problem(settings: Settings) -> None:
    outcome = doctor(settings, DoctorRequest(), no_progress)
    assert outcome.exit_code == 0
    assert "numpy" in look(settings)["libraries"].text


def test_the_database_is_asked(settings: Settings) -> None:
    assert "not made yet" in look(settings)["database"].text
    open_store(settings).close()
    assert "tables at 0" in look(settings)["database"].text


def test_a_damaged_database_is_a_problem(settings: Settings) -> None:
    open_store(settings).close()
    (settings.store_folder / "mill.db").write_bytes(b"no database" * 1000)
    found = look(settings)["database"]
    assert (found.state, found.next) == ("problem", "modelmill fsck")


def test_a_server_that_does_not_answer_is_a_problem(settings: Settings) -> None:
    away = Settings(root=settings.root, database="postgresql://127.0.0.1:1/none?connect_timeout=1")
    found = look(away)["database"]
    assert found.state == "problem"
    assert "MODELMILL_DATABASE_URL" in found.next


def test_a_store_that_cannot_be_written_is_a_problem(settings: Settings) -> None:
    assert look(Settings(root=settings.root, store="/proc/none"))["store"].state == "problem"


def test_a_port_in_use_is_noticed(settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = Settings(root=settings.root, serve=ServeSettings(port=taken.getsockname()[1]))
        assert look(busy)["port"].state == "notice"


def test_who_is_writing_is_named(settings: Settings) -> None:
    with ProjectLock(settings.store_folder / "lock", "train"):
        assert "held by pid" in look(settings)["writer"].text


def test_a_folder_without_a_project_is_noticed(tmp_path: Path) -> None:
    found = look(Settings(root=tmp_path))["project"]
    assert (found.state, found.next) == ("notice", "modelmill init")


def test_the_port_of_its_own_node_is_no_trouble(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        served = Settings(root=settings.root, serve=ServeSettings(port=port))
        assert f"pid {os.getpid()}" in look(served)["port"].text
        assert look(served)["port"].state == "notice"
        node = NodeInfo(os.getpid(), "127.0.0.1", port, "dev", 1, datetime.now(UTC), started_at(os.getpid()) or 0)
        node_file(served.store_folder).parent.mkdir(parents=True)
        node_file(served.store_folder).write_bytes(msgspec.json.encode(node))
        assert look(served)["port"].state == "ok"
