"""Processes of this machine, as the operating system shows them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from modelmill.serving.memory import taken_by
from modelmill.serving.processes import descendants, find_process, held_by, list_processes, listening


def test_this_very_process_is_found(tmp_path: Path) -> None:
    file = tmp_path / "held"
    with file.open("w"), socket.create_server(("127.0.0.1", 0)) as server:
        found, held = find_process(os.getpid()), held_by(os.getpid())
        port = server.getsockname()[1]
        mine = {address for inode, address in listening().items() if held and inode in held.sockets}
    assert found is not None
    assert held is not None
    assert (found.parent, found.user) == (os.getppid(), os.getuid())
    assert abs(found.since.timestamp() - time.time()) < 24 * 3600
    assert str(file) in held.files
    assert f"127.0.0.1:{port}" in mine
    memory = taken_by(os.getpid())
    assert memory is not None
    assert 0 < memory.share <= memory.resident


def test_an_older_address_within_a_newer_one_is_written_as_the_older() -> None:
    with socket.socket(socket.AF_INET6) as both:
        both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        both.bind(("::ffff:127.0.0.1", 0))
        both.listen()
        assert f"127.0.0.1:{both.getsockname()[1]}" in listening().values()


def test_an_address_of_the_newer_kind_is_written_in_brackets() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        assert f"[0000:0000:0000:0000:0000:0000:0000:0001]:{port}" in listening().values()


def test_a_process_that_has_ended_is_none() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        processes = {one.pid: one for one in list_processes()}
        assert child.pid in descendants(processes, {os.getpid()})
        child.communicate(b"\n")
    assert find_process(child.pid) is None
    assert (held_by(child.pid), taken_by(child.pid)) == (None, None)
