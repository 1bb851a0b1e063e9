"""What runs: `infra` says what the operating system shows, and nodes come to run what is declared, whatever they missed."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelmill.names import ModelName
from modelmill.registry.runs import newest_map
from modelmill.release.pointers import find_published
from modelmill.release.releasing import list_releases
from modelmill.release.releasing import release as move
from modelmill.serving.control import describe_node, find_node
from modelmill.settings import load_settings
from modelmill.store.blobs import pointers_of
from modelmill.store.opening import open_store

from .conftest import PATIENCE_S, Command
from .test_releases import answer_at, write

SALES = ModelName("sales")


@pytest.fixture(scope="module")
def project(modelmill: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a project with two releases in prod, of which the first is current, and a node of two workers."""
    folder = tmp_path_factory.mktemp("running") / "p"
    write(folder, "requests")
    file = folder / "m.py"
    file.write_text(file.read_text().replace("    canary=mm.Canary", "    # canary=mm.Canary"))
    for slope in ("1.0", "2.0"):
        assert modelmill("train", "--set", f"slope={slope}", cwd=folder).code == 0
        assert modelmill("deploy", "prod", "--yes", cwd=folder).code == 0
    assert modelmill("rollback", "prod", cwd=folder).code == 0
    assert modelmill("resume", "prod", cwd=folder).code == 0
    served = modelmill("serve", "--env", "prod", "--detach", "--port", "0", "--workers", "2", cwd=folder)
    assert served.code == 0, served.err
    yield folder
    modelmill("down", "--env", "prod", cwd=folder)


# ------------------------------------------------------------------ as the operating system shows it


def listening_sockets() -> dict[str, str]:
    """Return the sockets of this machine that listen on 127.0.0.1, by inode."""
    fields = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {
        f"socket:[{one[9]}]": f"127.0.0.1:{int(one[1].split(':')[1], 16)}"
        for one in fields
        if one[3] == "0A" and one[1].startswith("0100007F:")
    }


def links_of(pid: int) -> set[str]:
    return {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def maps_of(pid: int, store: Path) -> set[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line[line.index("/") :] for line in lines if str(store) in line}


def family_of(pid: int) -> set[int]:
    told = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {pid}.union(*(family_of(int(child)) for child in told))


def test_infra_says_what_the_operating_system_shows(modelmill: Command, project: Path) -> None:
    store = (project / ".modelmill").resolve()
    node = find_node(store, "prod")
    assert node is not None
    for number in range(20):
        answer_at(node.url, f"s{number:02d}")  # whoever is asked maps a pack
    told = modelmill("infra", "--json", cwd=project).json
    processes = {one["pid"]: one for one in told["processes"]}
    assert processes.keys() == family_of(node.pid)
    assert sorted(one["role"] for one in processes.values()) == ["node", "worker", "worker"]
    listening = listening_sockets()
    for pid, one in processes.items():
        links = links_of(pid)
        assert one["listens"] == [node.url[7:]] == [listening[link] for link in links if link in listening]
        assert set(one["files"]) == {link for link in links if link.startswith(str(store))}
        assert set(one["maps"]) == maps_of(pid, store)
        assert [one["environment"], one["node"], one["user"]] == ["prod", node.pid, getpass.getuser()]
        assert one["parent"] == int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        assert 0 < one["proportional_mb"] <= one["resident_mb"]
    assert any(one["maps"] for one in processes.values())
    published = find_published(pointers_of(store), "prod")
    assert published is not None
    assert processes[node.pid]["releases"] == {"sales": published.models[SALES].release}
    assert {one["revision"] for one in processes.values() if one["role"] == "worker"} == {published.revision}


def test_infra_tells_of_whoever_holds_the_store(modelmill: Command, project: Path) -> None:
    file = project / ".modelmill" / "keys" / "somebody"
    code = f"import sys; held = open({str(file)!r}, 'w'); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        told = {one["pid"]: one for one in modelmill("infra", "--json", cwd=project).json["processes"]}
        text = modelmill("infra", cwd=project).out
        holder.communicate(b"")
    assert (told[holder.pid]["role"], told[holder.pid]["files"]) == ("other", [str(file.resolve())])
    assert str(holder.pid) in text
    file.unlink()
    after = modelmill("infra", "--json", cwd=project).json["processes"]
    assert holder.pid not in {one["pid"] for one in after}


# ------------------------------------------------------------------ what is declared comes to run


def until(seen: Callable[[], Any], wanted: Any = 1) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (found := seen()) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def declare(project: Path, number: int) -> None:
    """Make a release current as any process may: nobody tells the node of it."""
    with open_store(load_settings(project)) as store:
        (wanted,) = (one for one in list_releases(store.database, "prod", SALES) if one.number == number)
        move(store, "prod", SALES, wanted.map)


def running(project: Path) -> list[int]:
    """Return the revision that each worker serves."""
    node = find_node(project / ".modelmill", "prod")
    assert node is not None
    return [worker["revision"] for worker in (describe_node(node) or {"workers": []})["workers"]]


def declared(project: Path) -> int:
    published = find_published(pointers_of(project / ".modelmill"), "prod")
    assert published is not None
    return published.revision


def shown(modelmill: Command, project: Path) -> Any:
    (node,) = modelmill("status", "--json", cwd=project).json["nodes"]
    return node


def test_a_node_that_nobody_tells_looks_for_itself(modelmill: Command, project: Path) -> None:
    assert shown(modelmill, project)["behind_s"] is None
    for number in (2, 1, 2):
        declare(project, number)
        until(lambda: running(project), [declared(project)] * 2)
    node = shown(modelmill, project)
    assert (node["declared"], node["releases"], node["behind_s"]) == ({"sales": 2}, {"sales": 2}, None)


def test_a_node_that_was_cut_off_catches_up(modelmill: Command, project: Path) -> None:
    node = find_node(project / ".modelmill", "prod")
    assert node is not None
    pids, before = [node.pid, *family_of(node.pid)], declared(project)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for number in (1, 2, 1):
            declare(project, number)
        told = modelmill("status", "--json", cwd=project)
        assert told.json["nodes"][0]["behind_s"] >= 0
        assert told.json["nodes"][0]["declared"] == {"sales": 1}
        assert "not taken by all workers" in modelmill("status", cwd=project).out
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    until(lambda: running(project), [before + 3] * 2)
    assert shown(modelmill, project)["behind_s"] is None


def test_a_node_whose_store_is_gone_serves_on_and_catches_up(modelmill: Command, project: Path) -> None:
    store = project / ".modelmill"
    node = find_node(store, "prod")
    assert node is not None
    assert modelmill("train", "--set", "slope=3.0", cwd=project).code == 0  # a release that it has never opened
    before = answer_at(node.url)
    revision = declared(project)
    away = [(store / name, store / f"away-{name}") for name in ("blobs", "pointers", "mill.db")]
    pids = [node.pid, *family_of(node.pid)]
    for pid in pids:  # it sees nothing of the new release before the store is gone
        os.kill(pid, signal.SIGSTOP)
    with open_store(load_settings(project)) as opened:
        newest = newest_map(opened.database, SALES).map
        assert newest is not None
        move(opened, "prod", SALES, newest)
    for here, there in away:
        here.rename(there)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    try:
        log = store / "run" / "prod" / "node.log"
        assert [answer_at(node.url) for _ in range(20)] == [before] * 20
        assert running(project) == [revision] * 2
        (store / "pointers").mkdir()  # the pointer is there again, what it points to is not
        name = "environment-prod.json"
        (store / "pointers" / name).write_bytes((store / "away-pointers" / name).read_bytes())
        until(lambda: "cannot be opened" in log.read_text())
        assert [answer_at(node.url) for _ in range(20)] == [before] * 20
    finally:
        shutil.rmtree(store / "pointers", ignore_errors=True)
        for here, there in away:
            there.rename(here)
    until(lambda: answer_at(node.url) != before)
    until(lambda: shown(modelmill, project)["behind_s"], None)
    assert shown(modelmill, project)["releases"] == {"sales": 3}


def test_a_killed_worker_is_replaced_by_one_that_runs_what_is_declared(modelmill: Command, project: Path) -> None:
    node = find_node(project / ".modelmill", "prod")
    assert node is not None
    victim = next(iter(family_of(node.pid) - {node.pid}))
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in family_of(node.pid) and len(running(project)) == 2)
    until(lambda: running(project), [declared(project)] * 2)
    assert victim not in {one["pid"] for one in modelmill("infra", "--json", cwd=project).json["processes"]}
