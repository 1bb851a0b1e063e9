"""Starting, finding and stopping a project's node, and waiting until its workers have applied a release."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import msgspec

from modelmill.errors import ExtraMissing, NodeNotReady, PortInUse
from modelmill.names import ModelName
from modelmill.serving.log import LogPlan
from modelmill.serving.processes import held_by, list_processes, listening
from modelmill.serving.upkeep import MEMORY_MB
from modelmill.settings import DEV
from modelmill.store.files import started_at, write_durably
from modelmill.store.tokens import make_token, read_token

APPLY_S = 30.0
"""How long is waited for workers: a release that runs Python starts a child first, on a busy machine for many seconds."""
RETRY_S = 5.0
"""After how long a worker tries a model again that it could not open: a file may have come back."""
_READY_S = 60.0
_STOP_S = 20.0
_POLL_S = 0.05


class NodeInfo(msgspec.Struct, frozen=True):
    """A node as the project knows it."""

    pid: int
    host: str
    port: int
    environment: str
    workers: int
    started_at: datetime
    birth: int = 0
    """When the process began, as the system counts it: a later process with the same pid is another one."""
    hot: bool = True
    """Whether requests take the hot path; see `serving.http`."""
    token_file: str = ""
    """Where the token is kept that requests must carry; empty where they need none."""
    log: LogPlan = LogPlan()
    """What is logged of the answers."""
    name: str = ""
    """A name under which requests may come although it has a dot; see `serving.door`."""
    watch: tuple[str, ...] = ()
    """The command that watches canaries; empty where nothing does."""
    grpc_port: int = 0
    """Where it answers over gRPC; 0 where it does not."""
    child_memory_mb: int = MEMORY_MB
    """What the process of a model that Python answers may have of its own."""
    memory: int = 0
    """How many bytes its processes may take together; 0 for half of what the machine has."""

    @property
    def url(self) -> str:
        """Return the address."""
        return f"http://{self.host}:{self.port}"

    @property
    def grpc(self) -> str:
        """Return the address of gRPC, empty where it does not answer over it."""
        return f"{self.host}:{self.grpc_port}" if self.grpc_port else ""

    @property
    def headers(self) -> dict[str, str]:
        """Return what a request to this node must carry."""
        if not self.token_file:
            return {}
        return {"authorization": f"Bearer {read_token(Path(self.token_file)).decode()}"}


class NodeOrder(msgspec.Struct, frozen=True):
    """What a parent is started with."""

    info: NodeInfo
    store: str
    listening: int
    state: int | None = None
    """The shared memory of the parent before this one."""
    workers: dict[int, int] = {}
    """The workers of the parent before this one, by slot: they serve until each is replaced."""
    reserved: int | None = None
    """The socket that keeps the port of gRPC; see `_reserve`."""


def node_command(order: NodeOrder) -> list[str]:
    """Return the arguments of a Python that runs a node as ordered."""
    # -P: the project's folder may hold a file that is named like a module which the node needs.
    return ["-P", "-m", "modelmill.serving.node", msgspec.json.encode(order).decode()]


def run_folder(store: Path, environment: str = DEV) -> Path:
    """Return where the node of an environment keeps what it is and what it counts."""
    return store / "run" / environment


def node_file(store: Path, environment: str = DEV) -> Path:
    """Return the file that says which node serves an environment of this store."""
    return run_folder(store, environment) / "node.json"


def log_file(store: Path, environment: str = DEV) -> Path:
    """Return the node's log."""
    return run_folder(store, environment) / "node.log"


def find_node(store: Path, environment: str = DEV) -> NodeInfo | None:
    """Return the node that serves an environment of this store now."""
    try:
        info = msgspec.json.decode(node_file(store, environment).read_bytes(), type=NodeInfo)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return info if _birth(info.pid) == info.birth else None


def start_node(  # noqa: PLR0913 - a node and its options
    store: Path,
    environment: str,
    *,
    host: str,
    port: int,
    workers: int,
    hot: bool = True,
    log: LogPlan = LogPlan(),  # noqa: B008 - immutable
    name: str = "",
    watch: tuple[str, ...] = (),
    grpc_port: int = -1,
    child_memory_mb: int = MEMORY_MB,
    memory: int = 0,
    timeout_s: float = _READY_S,
) -> NodeInfo:
    """Start a node in the background and return once it answers; raises `PortInUse`, `ExtraMissing` or `NodeNotReady`.

    It answers over gRPC, too, where `grpc_port` is not negative.
    """
    folder = run_folder(store, environment)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        listening = held.enter_context(_bind(host, port))
        reserved = held.enter_context(_reserve(host, grpc_port)) if grpc_port >= 0 else None
        info = NodeInfo(
            0,
            host,
            listening.getsockname()[1],
            environment,
            workers,
            datetime.now(UTC),
            hot=hot,
            token_file="" if _is_local(host) else str(make_token(store)),
            log=log,
            name=name,
            watch=watch,
            grpc_port=reserved.getsockname()[1] if reserved else 0,
            child_memory_mb=child_memory_mb,
            memory=memory,
        )
        output = held.enter_context(log_file(store, environment).open("ab"))
        order = NodeOrder(info, str(store), listening.fileno(), reserved=reserved.fileno() if reserved else None)
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, *node_command(order)],
            pass_fds=[one.fileno() for one in (listening, reserved) if one is not None],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    info = msgspec.structs.replace(info, pid=process.pid, birth=_birth(process.pid) or 0)
    write_durably(node_file(store, environment), msgspec.json.encode(info), folder)
    try:
        _await_ready(info, process, store, timeout_s)
    except BaseException:
        stop_node(store, info)
        raise
    return info


def restart_node(info: NodeInfo, timeout_s: float = _READY_S) -> int:
    """Have a node replace its workers one after the other, with the code that is installed now; return how many."""
    before = {worker["pid"] for worker in _workers(info)}
    os.kill(info.pid, signal.SIGHUP)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        workers = {worker["pid"] for worker in _workers(info)}
        if len(workers) >= info.workers and not workers & before:
            return len(before)
        time.sleep(_POLL_S)
    raise NodeNotReady(
        f"the node's workers were not all replaced after {timeout_s:g} s",
        next="modelmill status",
        safe="those that were not serve on",
    )


def _workers(info: NodeInfo) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (describe_node(info) or {}).get("workers", [])
    return found


def stop_node(store: Path, info: NodeInfo) -> None:
    """Let a node finish what it holds and end; kill it when it does not."""
    with suppress(ProcessLookupError):
        os.kill(info.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while _birth(info.pid) == info.birth and time.monotonic() < deadline:
        _reap(info.pid)
        time.sleep(_POLL_S)
    if _birth(info.pid) == info.birth:
        with suppress(ProcessLookupError):
            os.kill(info.pid, signal.SIGKILL)
    node_file(store, info.environment).unlink(missing_ok=True)


def describe_node(info: NodeInfo, *, memory: bool = False) -> dict[str, Any] | None:
    """Return what a node says of itself and its workers, None when it does not answer."""
    try:
        asked = f"{info.url}/-/node{'?memory' if memory else ''}"
        answer = httpx.get(asked, headers=info.headers, timeout=5)
    except httpx.HTTPError:
        return None
    return answer.json() if answer.is_success else None


def wait_until_applied(info: NodeInfo, revision: int, timeout_s: float = APPLY_S) -> list[int]:
    """Return the pids of the workers that have not applied a revision within the time; none is what one hopes for."""
    deadline = time.monotonic() + timeout_s
    laggards: list[int] = []
    while time.monotonic() < deadline:
        workers = _workers(info)
        laggards = [worker["pid"] for worker in workers if worker["revision"] < revision]
        if len(workers) >= info.workers and not laggards:
            return []
        time.sleep(_POLL_S)
    return laggards or [info.pid]


def wait_until_served(info: NodeInfo, revision: int, model: ModelName) -> tuple[list[int], str]:
    """Return the pids of the workers that have not applied a revision in time, and what is wrong with a model there.

    A worker that could not open it tries again after some seconds - its bytes may have come by then - and each is asked:
    the one that answers speaks of itself alone, and of the others it is known how many models they cannot open.
    """
    laggards = wait_until_applied(info, revision)
    deadline, trouble = time.monotonic() + 2 * RETRY_S, ""
    while not laggards:
        told = describe_node(info) or {}
        broken = told.get("broken", {})
        trouble = broken.get(model, trouble)
        alike = all(worker.get("broken", 0) == len(broken) for worker in told.get("workers", ()))
        if model not in broken and alike:
            return [], ""
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_S)
    return laggards, trouble


def check_port(host: str, port: int, grpc_port: int = -1) -> None:
    """Raise `PortInUse` or `ExtraMissing` when a node could not listen there; better before a build than after it."""
    _bind(host, port).close()
    if grpc_port >= 0:
        _reserve(host, grpc_port).close()


def _reserve(host: str, port: int) -> socket.socket:
    """Return a socket that keeps a port for the workers, which listen at it each for itself.

    gRPC takes no socket that listens already. One that is bound and does not listen takes no connection, and keeps the
    port from everybody but processes of the same user that share it on purpose, as the workers do.
    """
    if not (_is_installed("grpc") and _is_installed("google.protobuf")):
        raise ExtraMissing("`grpc_port` is set, and gRPC is not installed", next="pip install 'modelmill[grpc]'")
    # Alone first: with the port shared, another node of this user there would not be noticed.
    with _bind(host, port) as alone:
        port = alone.getsockname()[1]
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        reserved.bind((host, port))
    except OSError as error:  # somebody was quicker
        reserved.close()
        raise _port_in_use(host, port, error) from error
    return reserved


def _is_installed(package: str) -> bool:
    """Return whether a package could be imported; it is not, since no parent of a node may have gRPC's threads."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # nor is what it is part of
        return False


def _bind(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit it; asyncio would set it only where it recognises the socket as TCP.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise _port_in_use(host, port, error) from error
    listening.listen(1024)
    return listening


def _port_in_use(host: str, port: int, error: OSError) -> PortInUse:
    holder = who_listens(port)
    return PortInUse(
        f"port {port} of {host} cannot be used: {holder or error.strerror}",
        next=f"modelmill up --port {port + 1}      or, if it is this project's node:  modelmill down",
        safe="nothing was stopped or changed",
    )


def _is_local(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def who_listens(port: int) -> str:
    """Return ``pid 4121 (modelmill up)`` for the process that listens on a port, as far as we may know."""
    inodes = {inode for inode, address in listening().items() if address.endswith(f":{port}")}
    for process in list_processes() if inodes else ():
        held = held_by(process.pid)
        if held is not None and held.sockets & inodes:
            return f"it is in use by pid {process.pid} ({' '.join(process.words)[:80]})"
    return ""


def _await_ready(info: NodeInfo, process: subprocess.Popen[bytes], store: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NodeNotReady(
                "the node ended as soon as it started",
                where=str(log_file(store, info.environment)),
                got=_last_line(store, info.environment),
            )
        with suppress(httpx.HTTPError):
            if httpx.get(f"{info.url}/v2/health/ready", timeout=5).is_success:
                return
        time.sleep(_POLL_S)
    raise NodeNotReady(
        f"the node was not ready after {timeout_s:g} s",
        where=str(log_file(store, info.environment)),
        got=_last_line(store, info.environment),
    )


def _last_line(store: Path, environment: str) -> str:
    lines = log_file(store, environment).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def _birth(pid: int) -> int | None:
    """Return when a process was started, None when it has ended, be it that nobody has taken note of it yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return None
    return None if state == b"Z" else started_at(pid)


def _reap(pid: int) -> None:
    """Take note of the end of a node that this very process started, so that it is no zombie."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
