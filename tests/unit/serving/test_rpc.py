"""gRPC on real sockets: what is asked over it is answered, refused, counted and logged as over HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import modelmill as mm
from modelmill.artifact.layout import Link
from modelmill.artifact.linear import Linear
from modelmill.artifact.packed import Packed
from modelmill.artifact.saved import Classes
from modelmill.artifact.warming import warm
from modelmill.errors import ExtraMissing, PortInUse
from modelmill.model.schema import schema_of
from modelmill.serving.calls import LARGE_BYTES, MOST_BYTES, MOST_HELD_BYTES, Call, Reply
from modelmill.serving.control import check_port
from modelmill.serving.door import Door
from modelmill.serving.messages import MESSAGES, SERVICE
from modelmill.serving.plane import Plane
from modelmill.serving.rpc import CODE, RpcServer
from modelmill.serving.waiting import MOST_WAITING, Pace

STORES = ["north", "süd", "a/b c"]
LABELS = ("no", "può", "yes")


class Trip(mm.Schema):
    """A class by a store's numbers."""

    store: str = mm.key()
    size: float = mm.col()
    rooms: int = mm.col(ge=0)
    sold: bool = mm.col()
    late: str = mm.label(*LABELS)


class Server:
    """A plane over gRPC in a loop that runs in another thread, and a channel to it."""

    def __init__(self, plane: Plane, loop: asyncio.AbstractEventLoop) -> None:
        self.plane, self._loop = plane, loop
        self.rpc = self.run(self._start())
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{self.rpc.port}", options=[("grpc.max_send_message_length", -1)]
        )

    async def _start(self) -> RpcServer:
        server = RpcServer(self.plane, "127.0.0.1", 0)
        await server.start()
        return server

    def run(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    def close(self) -> None:
        self.channel.close()
        self.run(self.rpc.stop())

    def send(self, method: str, content: bytes, *metadata: tuple[str, str], **options: Any) -> tuple[bytes, Any]:
        """Return the bytes of an answer, and what the server told beside it."""
        asked = self.channel.unary_unary(f"/{SERVICE}/{method}")
        answer, call = asked.with_call(content, timeout=30, metadata=metadata, **options)
        return answer, dict(call.trailing_metadata())

    def ask(self, method: str, *metadata: tuple[str, str], **fields: Any) -> Any:
        """Return the answer to a message of these fields."""
        request = MESSAGES[f"{method}Request"](**fields)
        return MESSAGES[f"{method}Response"].FromString(self.send(method, request.SerializeToString(), *metadata)[0])

    def refused(self, method: str, content: bytes, *metadata: tuple[str, str], **options: Any) -> tuple[Any, str, str]:
        """Return the status of a refusal, its code and its text."""
        with pytest.raises(grpc.RpcError) as caught:
            self.send(method, content, *metadata, **options)
        error: Any = caught.value
        return error.code(), dict(error.trailing_metadata()).get(CODE, ""), error.details()

    def over_http(self, path: str, **body: Any) -> dict[str, Any]:
        """Return what HTTP answers to the same question in JSON."""
        call = Call("POST", path.encode(), (), json.dumps(body).encode())
        told: dict[str, Any] = json.loads(self.run(self.plane.respond(call)).body)
        return told


@pytest.fixture(scope="module")
def plane(served: Any, tmp_path_factory: pytest.TempPathFactory) -> Plane:
    warm()
    models = {
        (store,): Packed(
            Linear(np.eye(3) * (place + 1), np.zeros(3), Link.SOFTMAX, 3), 3, classes=Classes(3, (0, 1, 2))
        )
        for place, store in enumerate(STORES)
    }
    found: Plane = served(tmp_path_factory.mktemp("rpc") / "store", schema_of(Trip), models, labels=LABELS)
    return found


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Return the loop of all servers: a worker has one, too."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def server(plane: Plane, loop: asyncio.AbstractEventLoop) -> Iterator[Server]:
    server = Server(plane, loop)
    yield server
    server.close()


Tensor = dict[str, Any]


def tensor(name: str, datatype: str, where: str, values: list[Any], shape: list[int] | None = None) -> Tensor:
    return {"name": name, "datatype": datatype, "shape": shape or [len(values)], "contents": {where: values}}


def store_of(*stores: str) -> Tensor:
    return tensor("store", "BYTES", "bytes_contents", [store.encode() for store in stores])


SIZES, ROOMS, SOLD = [0.1, -1.5, 1e-7], [3, 0, 1], [True, False, True]
NAMED = [
    store_of(*STORES),
    tensor("size", "FP64", "fp64_contents", SIZES),
    tensor("rooms", "INT64", "int64_contents", ROOMS),
    tensor("sold", "BOOL", "bool_contents", SOLD),
]
X = np.column_stack([SIZES, ROOMS, SOLD]).astype("<f8")
MATRIX = tensor("x", "FP64", "fp64_contents", X.ravel().tolist(), [3, 3])
INFER = "/v2/models/fleet/infer"


def as_raw(inputs: list[Tensor]) -> dict[str, Any]:
    """Return the fields of a request in which the values of these inputs are bytes."""
    dtypes = {"FP64": "<f8", "FP32": "<f4", "FP16": "<f2", "INT64": "<i8", "INT32": "<i4", "BOOL": "?"}
    raw = []
    for one in inputs:
        (values,) = one["contents"].values()
        if one["datatype"] == "BYTES":
            raw.append(b"".join(len(value).to_bytes(4, "little") + value for value in values))
        else:
            raw.append(np.array(values, dtype=dtypes[one["datatype"]]).tobytes())
    bare = [{name: part for name, part in one.items() if name != "contents"} for one in inputs]
    return {"inputs": bare, "raw_input_contents": raw}


def as_json(inputs: list[Tensor]) -> list[dict[str, Any]]:
    """Return inputs as JSON has them."""
    told = []
    for one in inputs:
        (values,) = one["contents"].values()
        data = [value.decode() if isinstance(value, bytes) else value for value in values]
        told.append({name: part for name, part in one.items() if name != "contents"} | {"data": data})
    return told


def wrong(inputs: Any = None, **fields: Any) -> bytes:
    """Return a request that differs from a right one in these."""
    asked = {"model_name": "fleet"} | (as_raw(NAMED) if inputs is None else {"inputs": inputs}) | fields
    found: bytes = MESSAGES["ModelInferRequest"](**asked).SerializeToString()
    return found


# ---------------------------------------------------------------- answers


INPUTS = {
    "named": NAMED,
    "matrix": [NAMED[0], MATRIX],
    "FP32": [*NAMED[:1], tensor("size", "FP32", "fp32_contents", [0.5, 1.5, -2.0]), *NAMED[2:]],
    "INT32": [*NAMED[:2], tensor("rooms", "INT32", "int_contents", ROOMS, [3, 1]), NAMED[3]],
}


@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_values_and_bytes_are_answered_as_over_http(server: Server, inputs: list[Tensor]) -> None:
    told = server.over_http(INFER, id="7", inputs=as_json(inputs))
    late, chances = told["outputs"]
    typed = server.ask("ModelInfer", model_name="fleet", id="7", inputs=inputs)
    raw = server.ask("ModelInfer", model_name="fleet", id="7", **as_raw(inputs))
    for answer in (typed, raw):
        assert (answer.model_name, answer.model_version, answer.id) == ("fleet", "3", "7")
        assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [
            (one["name"], one["datatype"], one["shape"]) for one in told["outputs"]
        ]
        assert answer.parameters["pooled"].int64_param == told["parameters"]["pooled"]
    assert [one.decode() for one in typed.outputs[0].contents.bytes_contents] == late["data"]
    assert list(typed.outputs[1].contents.fp64_contents) == chances["data"]
    assert raw.raw_output_contents[0] == b"".join(
        len(text.encode()).to_bytes(4, "little") + text.encode() for text in late["data"]
    )
    assert raw.raw_output_contents[1] == np.array(chances["data"], dtype="<f8").tobytes()
    assert not typed.raw_output_contents
    assert not raw.outputs[0].contents.bytes_contents


@pytest.mark.parametrize("name", ["fleet[süd]", "fleet%5Bs%C3%BCd%5D", "fleet[s%C3%BCd]"])
def test_a_segment_may_stand_in_the_name(server: Server, name: str) -> None:
    told = server.over_http("/v2/models/fleet%5Bs%C3%BCd%5D/infer", inputs=as_json([MATRIX]))
    answer = server.ask("ModelInfer", model_name=name, **as_raw([MATRIX]))
    assert np.frombuffer(answer.raw_output_contents[1]).tolist() == told["outputs"][1]["data"]


@pytest.mark.parametrize("name", ["fleet[a/b c]", "fleet%5Ba%2Fb%20c%5D"])
def test_a_segment_has_its_slash(server: Server, name: str) -> None:
    answer = server.ask("ModelInfer", model_name=name, **as_raw([MATRIX]))
    asked = server.ask("ModelInfer", model_name="fleet", **as_raw([store_of(*["a/b c"] * 3), MATRIX]))
    assert answer.raw_output_contents == asked.raw_output_contents


def test_the_outputs_that_are_wanted_are_told(server: Server) -> None:
    outputs = [{"name": "probabilities", "parameters": {"binary_data": {"bool_param": False}}}]
    answer = server.ask("ModelInfer", model_name="fleet", outputs=outputs, **as_raw(NAMED))
    assert [one.name for one in answer.outputs] == ["probabilities"]
    assert len(answer.raw_output_contents) == 1


def test_the_node_and_its_models_describe_themselves(server: Server) -> None:
    assert server.ask("ServerLive").live
    assert server.ask("ServerReady").ready
    assert server.ask("ServerMetadata").name == "modelmill"
    assert server.ask("ModelReady", name="fleet").ready
    assert server.ask("ModelReady", name="fleet", version="3").ready
    assert not server.ask("ModelReady", name="nothing").ready
    told = server.ask("ModelMetadata", name="fleet")
    assert (told.name, list(told.versions), told.platform) == ("fleet", ["3"], "modelmill")
    assert [(one.name, one.datatype) for one in told.inputs] == [
        ("store", "BYTES"), ("size", "FP64"), ("rooms", "INT64"), ("sold", "BOOL"),
    ]  # fmt: skip
    assert [(one.name, list(one.shape)) for one in told.outputs] == [("late", [-1]), ("probabilities", [-1, 3])]


# ---------------------------------------------------------------- refusals


RAW = as_raw(NAMED)
INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (wrong(model_name="nothing"), MISSING, "serves no model `nothing`"),
        (wrong(model_name=""), MISSING, "no address"),
        (wrong(model_version="newest"), MISSING, "no address"),
        (wrong(model_name="fleet[nowhere]", **as_raw([MATRIX])), MISSING, "nowhere"),
        (wrong([]), INVALID, "has `inputs`"),
        (wrong(NAMED[:3]), INVALID, "`sold`"),
        (wrong(NAMED, raw_input_contents=RAW["raw_input_contents"]), INVALID, "twice"),
        (wrong(RAW["inputs"]), INVALID, "has no `data`"),
        (wrong(raw_input_contents=RAW["raw_input_contents"][:3]), INVALID, "input `sold` has no `data`"),
        (wrong(raw_input_contents=[*RAW["raw_input_contents"], b"more"]), INVALID, "4 bytes follow"),
        (wrong(raw_input_contents=[b"\xff", *RAW["raw_input_contents"][1:]]), INVALID, "another shape than its bytes"),
        (wrong([*NAMED[:2], tensor("rooms", "INT64", "int64_contents", [-1] * 3), NAMED[3]]), INVALID, "`rooms`"),
        (wrong([NAMED[0], NAMED[1] | {"datatype": "BF16"}, *NAMED[2:]]), INVALID, "unknown datatype"),
        (wrong([NAMED[0], NAMED[1] | {"shape": [1, 1, 3]}, *NAMED[2:]]), INVALID, "impossible shape"),
        (wrong([NAMED[0] | {"contents": {"bytes_contents": [b"\xff"] * 3}}, *NAMED[1:]]), INVALID, "not UTF-8"),
        (wrong(outputs=[{"name": "nothing"}]), INVALID, "output `nothing`"),
        (b"\xff\xff\xff", INVALID, "no ModelInferRequest"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_request_is_refused_with_its_reason(server: Server, content: bytes, status: Any, said: str) -> None:
    found, code, text = server.refused("ModelInfer", content)
    assert (found, text.startswith(f"{code} ")) == (status, True)
    assert code.startswith("MM2")
    assert said in text


@pytest.mark.parametrize("method", ["RepositoryIndex", "ModelStreamInfer", "ModelStatistics"])
def test_what_triton_alone_has_is_not_implemented(server: Server, method: str) -> None:
    assert server.refused(method, b"")[0] == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_what_is_too_large_is_refused_packed_or_not(server: Server, compression: Any) -> None:
    content = bytes(MOST_BYTES + 1)
    assert server.refused("ModelInfer", content, compression=compression)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.ask("ServerLive").live


def test_who_would_wait_in_vain_is_refused_and_told_when_to_try_again(server: Server) -> None:
    content = MESSAGES["ModelInferRequest"](model_name="fleet", inputs=NAMED).SerializeToString()
    server.send("ModelInfer", content)  # the address is known
    (lines,) = server.plane._lines.values()
    lines.few.waiting = MOST_WAITING
    try:
        with pytest.raises(grpc.RpcError) as caught:
            server.send("ModelInfer", content)
    finally:
        lines.few.waiting = 0
    error: Any = caught.value
    told = dict(error.trailing_metadata())
    assert (error.code(), told[CODE]) == (grpc.StatusCode.UNAVAILABLE, "MM530")
    assert int(told["retry-after"]) >= 1
    server.send("ModelInfer", content)


def test_grpcs_own_deadline_counts(server: Server) -> None:
    content = MESSAGES["ModelInferRequest"](model_name="fleet", inputs=NAMED).SerializeToString()
    server.send("ModelInfer", content)
    (lines,) = server.plane._lines.values()
    lines.few.pace, lines.few.waiting = Pace(), 3
    for _ in range(20):
        lines.few.pace.add(
            10.0
        )  # twice thirty seconds before it, and ten for itself: more than the thirty of this client
    try:
        assert server.refused("ModelInfer", content)[:2] == (grpc.StatusCode.UNAVAILABLE, "MM541")
    finally:
        lines.few.pace, lines.few.waiting = Pace(), 0


def test_bytes_are_bounded_before_a_message_is_read(server: Server) -> None:
    server.plane.held += MOST_HELD_BYTES
    try:
        status, code, _ = server.refused("ModelInfer", b"\xff" * (LARGE_BYTES + 1))  # which is no message
        assert (status, code) == (grpc.StatusCode.UNAVAILABLE, "MM544")
        assert server.ask("ServerLive").live
    finally:
        server.plane.held -= MOST_HELD_BYTES
    assert server.refused("ModelInfer", b"\xff" * (LARGE_BYTES + 1))[0] is grpc.StatusCode.INVALID_ARGUMENT
    until = time.monotonic() + 30
    while server.plane.held and time.monotonic() < until:  # a call ends behind its answer
        time.sleep(0.01)
    assert server.plane.held == 0


def test_answers_and_refusals_are_counted_and_ids_told(server: Server) -> None:
    meters = server.plane.meters
    before = meters.answered, meters.refused
    content = wrong()
    _, told = server.send("ModelInfer", content, ("x-request-id", "order-7"))
    assert told["x-request-id"] == "order-7"
    _, told = server.send("ModelInfer", content, ("x-request-id", "no id"))
    assert told["x-request-id"] != "order-7"
    server.refused("ModelInfer", wrong(model_name="nothing"))
    server.ask("ServerLive")
    assert (meters.answered - before[0], meters.refused - before[1]) == (2, 1)


Fresh = Callable[[Door], Server]


@pytest.fixture
def fresh(plane: Plane, loop: asyncio.AbstractEventLoop, no_host: Any, no_log: Any) -> Iterator[Fresh]:
    made: list[Server] = []

    def make(door: Door) -> Server:
        behind = Plane(no_host(), no_log, door)
        behind.applied = plane.applied
        made.append(Server(behind, loop))
        return made[-1]

    yield make
    for server in made:
        server.close()


def test_with_a_token_only_it_counts(fresh: Fresh) -> None:
    server = fresh(Door(b"secret"))
    assert server.ask("ServerReady").ready
    for metadata in ([], [("authorization", "Bearer wrong")]):
        for method, content in (("ModelInfer", wrong()), ("ModelMetadata", b""), ("ServerMetadata", b"")):
            assert server.refused(method, content, *metadata)[0] == grpc.StatusCode.UNAUTHENTICATED
    assert server.send("ModelInfer", wrong(), ("authorization", "Bearer secret"))[0]


def test_before_a_release_is_applied_it_is_not_ready(fresh: Fresh) -> None:
    server = fresh(Door())
    server.plane.applied = None
    assert server.ask("ServerLive").live
    assert not server.ask("ServerReady").ready
    assert not server.ask("ModelReady", name="fleet").ready
    assert server.refused("ModelInfer", wrong())[:2] == (grpc.StatusCode.UNAVAILABLE, "MM508")


class SlowPlane(Plane):
    """A plane whose answers wait until they may go."""

    asked, may_go = 0, False

    def now(self, call: Call, *, is_plain: bool) -> None:  # noqa: ARG002 - as for a model in another process
        return

    async def respond(self, call: Call) -> Reply:
        self.asked += 1
        while not self.may_go:  # noqa: ASYNC110 - it is set in another thread
            await asyncio.sleep(0.01)
        return await super().respond(call)


def test_what_is_under_way_is_answered_before_a_server_ends(
    plane: Plane, loop: asyncio.AbstractEventLoop, no_host: Any, no_log: Any
) -> None:
    behind = SlowPlane(no_host(), no_log, Door())
    behind.applied = plane.applied
    server = Server(behind, loop)
    ask = server.channel.unary_unary(f"/{SERVICE}/ModelInfer")
    answers = [ask.future(wrong(), timeout=30) for _ in range(3)]
    assert eventually(lambda: behind.asked == 3)
    stopping = asyncio.run_coroutine_threadsafe(server.rpc.stop(), loop)
    assert eventually(lambda: isinstance(ask.future(wrong(), timeout=0.2).exception(), grpc.RpcError))
    behind.may_go = True
    assert len({answer.result() for answer in answers}) == 1
    stopping.result(30)
    server.close()


def test_a_client_that_gives_up_ends_no_answer(
    plane: Plane, loop: asyncio.AbstractEventLoop, no_host: Any, no_log: Any
) -> None:
    behind = SlowPlane(no_host(), no_log, Door())
    behind.applied = plane.applied
    server = Server(behind, loop)
    answer = server.channel.unary_unary(f"/{SERVICE}/ModelInfer").future(wrong(), timeout=30)
    assert eventually(lambda: behind.asked == 1)
    answer.cancel()
    behind.may_go = True
    assert eventually(lambda: behind.meters.answered == 1)
    server.close()


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


# ---------------------------------------------------------------- beside other packages


_BESIDE = """
from google.protobuf import descriptor_pool
def others():
    # As what is generated from the protocol does when it is imported: the same names, in the pool that all share.
    from google.protobuf import descriptor_pb2
    file = descriptor_pb2.FileDescriptorProto(name="grpc_service.proto", package="inference", syntax="proto3")
    file.message_type.add(name="ServerLiveRequest")
    file.message_type.add(name="ModelInferRequest").field.add(name="model_name", number=1, type=9, label=1)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
def ours():
    from modelmill.serving.messages import MESSAGES
    sent = MESSAGES["ModelInferRequest"](model_name="m", raw_input_contents=[b"1"]).SerializeToString()
    assert MESSAGES["ModelInferRequest"].FromString(sent).raw_input_contents == [b"1"]
"""


@pytest.mark.parametrize("order", ["others(); ours()", "ours(); others()"])
def test_other_packages_may_have_the_same_messages_in_one_process(order: str) -> None:
    subprocess.run([sys.executable, "-c", f"{_BESIDE}\n{order}"], check=True)


@pytest.mark.parametrize("missing", ["grpc", "google.protobuf"])
def test_without_the_extra_the_setting_says_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    check_port("127.0.0.1", 0, 0)
    monkeypatch.setitem(sys.modules, missing, None)
    check_port("127.0.0.1", 0)
    with pytest.raises(ExtraMissing) as caught:
        check_port("127.0.0.1", 0, 0)
    assert caught.value.parts["next"] == "pip install 'modelmill[grpc]'"


def test_a_port_that_is_taken_is_named_before_a_node_starts() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as the workers of another node have it
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortInUse):
            check_port("127.0.0.1", 0, other.getsockname()[1])


def test_a_node_without_grpc_does_not_import_it() -> None:
    code = "import sys, modelmill.serving.node as _; sys.exit(bool({'grpc', 'google.protobuf'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
