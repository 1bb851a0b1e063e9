"""Answers of a plane: the quick way and the general way are one, and every wrong request is refused with its reason."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import modelmill as mm
from modelmill.artifact.layout import Link
from modelmill.artifact.linear import Linear
from modelmill.artifact.packed import Packed
from modelmill.artifact.saved import Classes
from modelmill.errors import StoreUnavailable
from modelmill.model.schema import schema_of
from modelmill.names import format_target
from modelmill.serving.calls import Call, Reply
from modelmill.serving.door import Door
from modelmill.serving.plane import Plane

Answer = dict[str, Any]


class Sale(mm.Schema):
    """Numbers by store."""

    store: str = mm.key()
    number: int = mm.key()
    size: float = mm.col(ge=-1000, lt=1000)
    rooms: int = mm.col(ge=0)
    sold: bool = mm.col()
    sales: float = mm.target()


class Trip(mm.Schema):
    """A class by numbers and a category."""

    size: float = mm.col()
    kind: str = mm.category("car", "bus", "tram")
    late: str = mm.label("no", 'per"haps', "yes")


def linear(*coef: float, intercept: float = 0.0) -> Packed:
    return Packed(Linear(np.array([coef]), np.array([intercept])), len(coef))


@pytest.fixture(scope="module")
def planes(served: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plane]:
    folder: Path = tmp_path_factory.mktemp("answers")
    models = {
        (): linear(1, 2, 3),
        ("north", "1"): linear(10, 20, 30),
        ("a,b]", "2"): linear(0.1, 0.2, 0.3),
        ("broken", "3"): linear(np.nan, 0, 0),
    }
    three = Packed(Linear(np.eye(3, 2), np.zeros(3), Link.SOFTMAX, 3), 2, classes=Classes(3, (0, 1, 2)))
    return {
        "fleet": served(folder / "sales", schema_of(Sale), models),
        "trips": served(folder / "trips", schema_of(Trip), {(): three}, labels=("no", 'per"haps', "yes")),
    }


HEADERS = [(b"host", b"node")]


def generally(plane: Plane, path: str, body: bytes, headers: Any = ()) -> Reply:
    return asyncio.run(plane.respond(Call("POST", path.encode(), [*HEADERS, *headers], body, request=b"mine")))


def quickly(plane: Plane, path: str, body: bytes) -> Reply | None:
    return plane.now(Call("POST", path.encode(), HEADERS, body, request=b"mine"), is_plain=True)


def asked(plane: Plane, path: str, body: Any, headers: Any = ()) -> tuple[int, Answer]:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = generally(plane, path, text, headers)
    return reply.status, json.loads(reply.body)


def tensor(name: str, datatype: str, *data: Any, shape: Any = None) -> Answer:
    return {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": list(data)}


ROW = {"store": "north", "number": 1, "size": 1.5, "rooms": 2, "sold": True}
KEYS = [tensor("store", "BYTES", "north"), tensor("number", "INT64", 1)]
NAMED = [*KEYS, tensor("size", "FP64", 1.5), tensor("rooms", "INT64", 2), tensor("sold", "BOOL", True)]  # noqa: FBT003 - a value
MATRIX = tensor("x", "FP64", 1.5, 2.0, 1.0, shape=[1, 3])
V2 = "/v2/models/fleet/infer"
HERE = "/v2/models/fleet%5Bnorth,1%5D/infer"


# ---------------------------------------------------------------- what is right


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (V2, {"inputs": NAMED}),
        (V2, {"inputs": [*KEYS, MATRIX]}),
        (V2, {"inputs": [tensor("store", "BYTES", "north"), tensor("number", "BYTES", "1"), MATRIX]}),
        (HERE, {"inputs": [MATRIX]}),
        (HERE, {"inputs": NAMED[2:]}),
        (HERE, {"inputs": [tensor("x", "FP32", [1.5, 2, 1], shape=[1, 3])]}),
        (V2, {"inputs": [*KEYS, tensor("x", "INT64", 1, 2, 1, shape=[1, 3])]}),
        (V2, {"inputs": NAMED, "parameters": {"sequence_id": 7}, "outputs": [{"name": "sales"}]}),
    ],
)
def test_every_form_of_v2_gives_the_same_answer(planes: dict[str, Plane], path: str, body: Answer) -> None:
    status, told = asked(planes["fleet"], path, body)
    expected = 85.0 if "INT64" not in str(body["inputs"][-1]) else 80.0
    assert (status, told["outputs"]) == (200, [tensor("sales", "FP64", expected)])
    assert (told["model_name"], told["model_version"], told["parameters"]) == ("fleet", "3", {"pooled": 0})


def test_rows_of_one_request_may_be_of_different_segments(planes: dict[str, Plane]) -> None:
    stores = tensor("store", "BYTES", "north", "a,b]", "nowhere")
    x = tensor("x", "FP64", *[1.0, 0.0, 0.0] * 3, shape=[3, 3])
    _, told = asked(planes["fleet"], V2, {"inputs": [stores, tensor("number", "INT64", 1, 2, 1), x]})
    assert told["outputs"] == [tensor("sales", "FP64", 10.0, 0.1, 1.0)]
    assert told["parameters"] == {"pooled": 1}


def test_a_segment_with_strange_characters_stands_in_an_address(planes: dict[str, Plane]) -> None:
    name = format_target("fleet", ("a,b]", "2"))
    for path in (f"/{name}", f"/{quote(name)}"):
        assert asked(planes["fleet"], path, {"size": 1, "rooms": 0, "sold": False})[1]["sales"] == 0.1


def test_a_model_without_a_number_is_replaced_by_the_pooled_one(planes: dict[str, Plane]) -> None:
    row = ROW | {"store": "broken", "number": 3}
    _, told = asked(planes["fleet"], "/fleet", row)
    assert (told["sales"], told["answered_by"], told["why"]) == (8.5, "pooled", "its own model gave no usable answer")
    reply = quickly(planes["fleet"], "/fleet", json.dumps(row).encode())
    assert reply is not None
    assert json.loads(reply.body) == told


def test_a_class_is_told_with_its_probabilities(planes: dict[str, Plane]) -> None:
    inputs = [tensor("size", "FP64", 3.0, 0.0), tensor("kind", "BYTES", "car", "tram")]
    _, told = asked(planes["trips"], V2, {"inputs": inputs})
    first, second = told["outputs"]
    assert first == tensor("late", "BYTES", "no", 'per"haps')
    assert (second["name"], second["shape"]) == ("probabilities", [2, 3])
    assert sum(second["data"]) == pytest.approx(2)


# ---------------------------------------------------------------- the quick way is the general way

SIZES = st.floats(-999, 999) | st.integers(-9, 9) | st.just(5000)
FIELDS = st.fixed_dictionaries(
    {"size": SIZES, "rooms": st.integers(-1, 9) | st.just(2.0), "sold": st.booleans() | st.just(1)},
    optional={"store": st.sampled_from(["north", "broken", "nowhere", 7]), "number": st.integers(1, 3)},
)
PATHS = ["/fleet", "/fleet[north,1]", "/fleet[nowhere,9]", "/fleet[north]", "/flet"]


@given(FIELDS, st.sampled_from(PATHS), st.booleans())
def test_named_fields_are_answered_alike(planes: dict[str, Plane], row: Answer, path: str, known: bool) -> None:
    body = json.dumps({"store": "north", "number": 1} | row if known else row).encode()
    assert quickly(planes["fleet"], path, body) == generally(planes["fleet"], path, body)


DATATYPES = st.sampled_from(["FP64", "FP32", "INT64", "INT8", "BOOL", "BYTES", "FP65", ""])
VALUES = st.lists(SIZES | st.booleans() | st.text(max_size=2) | st.none() | st.just([1.0, 2.0]), max_size=4)
SHAPES = st.sampled_from([[1], [1, 1], [1, 3], [3, 1], [0], [-1], [2], [], [1, 1, 1]])
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "size", "rooms", "sold", "store", "y"]),
        "shape": SHAPES,
        "datatype": DATATYPES,
        "data": VALUES,
    }
)


@given(st.lists(TENSORS, max_size=2), st.integers(0, 5), st.sampled_from([V2, HERE]), st.booleans())
def test_inference_requests_are_answered_alike(
    planes: dict[str, Plane], strange: list[Answer], kept: int, path: str, matrix: bool
) -> None:
    usual = [MATRIX] if matrix else NAMED if path == V2 else NAMED[2:]
    body = json.dumps({"inputs": [*usual[:kept], *strange]}).encode()
    found = generally(planes["fleet"], path, body)
    assert quickly(planes["fleet"], path, body) == found
    assert found.status < 500


@given(st.floats(-50, 50), st.sampled_from(["car", "bus", "tram", "boat"]))
def test_classes_are_answered_alike(planes: dict[str, Plane], size: float, kind: str) -> None:
    named = json.dumps({"size": size, "kind": kind}).encode()
    tensors = json.dumps({"inputs": [tensor("size", "FP64", size), tensor("kind", "BYTES", kind)]}).encode()
    for path, body in (("/fleet", named), (V2, tensors)):
        assert quickly(planes["trips"], path, body) == generally(planes["trips"], path, body)


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode), st.sampled_from([V2, HERE, "/fleet"]))
def test_any_bytes_are_answered_alike(planes: dict[str, Plane], body: bytes, path: str) -> None:
    found = generally(planes["fleet"], path, body)
    assert 400 <= found.status < 500
    assert quickly(planes["fleet"], path, body) == found


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[{"name":"store","shape":[1],"datatype":"BYTES","data":["nor\x9fth"]}]}',
        b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP64","data":[1,2,3]}],"outputs":[{"name":"y","p\x85":1}]}',
        b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP64","data":[[1,2,"\xff"]]}]}',
        b'{"store":"\xff"}',
    ],
)
def test_text_that_is_no_utf8_is_refused_wherever_it_stands(planes: dict[str, Plane], body: bytes) -> None:
    for path in (V2, HERE, "/fleet", "/invocations/fleet"):
        found = generally(planes["fleet"], path, body)
        assert 400 <= found.status < 500, found
        assert quickly(planes["fleet"], path, body) == found


@pytest.mark.parametrize(
    "error", [OSError("gone"), IndexError("no such column"), StoreUnavailable("no blobs")], ids=repr
)
def test_whatever_the_quick_way_meets_is_left_to_the_general_way(
    planes: dict[str, Plane], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    body = json.dumps(ROW).encode()
    assert quickly(planes["fleet"], "/fleet", body) is not None
    monkeypatch.setattr(Packed, "one", fail)
    assert planes["fleet"].quick(b"/fleet", body) is None
    reply = quickly(planes["fleet"], "/fleet", body)
    assert reply is not None
    assert reply.status == 200


# ---------------------------------------------------------------- bytes


def binary(inputs: list[tuple[str, str, list[int], bytes]], **more: Any) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return a request whose tensors follow its JSON."""
    told = [{"name": n, "datatype": d, "shape": s, "parameters": {"binary_data_size": len(c)}} for n, d, s, c in inputs]
    text = json.dumps({"inputs": told, **more}).encode()
    return text + b"".join(c for *_, c in inputs), [(b"inference-header-content-length", str(len(text)).encode())]


def texts(*values: str) -> bytes:
    return b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)


STORES = ("store", "BYTES", [2], texts("north", "nowhere"))
NUMBERS = ("number", "INT64", [2], np.array([1, 1], "<i8").tobytes())
X = ("x", "FP32", [2, 3], np.array([[1.5, 2, 1], [1, 0, 0]], "<f4").tobytes())


def test_tensors_may_come_and_go_as_bytes(planes: dict[str, Plane]) -> None:
    body, headers = binary([STORES, NUMBERS, X], parameters={"binary_data_output": True}, id="7")
    reply = generally(planes["fleet"], V2, body, headers)
    assert reply.status == 200
    length = int(dict(reply.headers)[b"inference-header-content-length"])
    told = json.loads(reply.body[:length])
    assert (told["id"], told["outputs"][0]["parameters"]) == ("7", {"binary_data_size": 16})
    assert np.frombuffer(reply.body[length:], "<f8").tolist() == [85.0, 1.0]


def test_each_output_may_be_wanted_in_its_own_form(planes: dict[str, Plane]) -> None:
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "late"}]
    inputs = [tensor("size", "FP64", 3.0), tensor("kind", "BYTES", "car")]
    reply = generally(planes["trips"], V2, json.dumps({"inputs": inputs, "outputs": outputs}).encode())
    length = int(dict(reply.headers)[b"inference-header-content-length"])
    told = json.loads(reply.body[:length])["outputs"]
    assert [output["name"] for output in told] == ["probabilities", "late"]
    assert np.frombuffer(reply.body[length:], "<f8").sum() == pytest.approx(1)
    assert told[1]["data"] == ["no"]


def test_labels_may_be_wanted_as_bytes(planes: dict[str, Plane]) -> None:
    inputs = [tensor("size", "FP64", 3.0), tensor("kind", "BYTES", "car")]
    outputs = [{"name": "late", "parameters": {"binary_data": True}}]
    reply = generally(planes["trips"], V2, json.dumps({"inputs": inputs, "outputs": outputs}).encode())
    assert reply.body.endswith(texts("no"))


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
def test_a_body_may_be_packed(planes: dict[str, Plane], pack: Any) -> None:
    encoding = [(b"content-encoding", b"gzip" if pack is gzip.compress else b"deflate")]
    assert asked(planes["fleet"], "/fleet", pack(json.dumps(ROW).encode()), encoding)[1]["sales"] == 85.0


def test_a_header_that_changes_the_body_is_not_for_the_quick_way(planes: dict[str, Plane]) -> None:
    body, headers = binary([STORES, NUMBERS, X])
    call = Call("POST", V2.encode(), headers, body, request=b"mine")
    assert planes["fleet"].now(call, is_plain=False) == asyncio.run(planes["fleet"].respond(call))


# ---------------------------------------------------------------- what is wrong

HUGE = 2**70


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": [-1]}, "impossible shape"),
        ({"shape": [2]}, "another shape"),
        ({"shape": [HUGE]}, "another shape"),
        ({"shape": [2**40, 2**40]}, "shape"),
        ({"shape": []}, "impossible shape"),
        ({"shape": [1, 1, 1]}, "impossible shape"),
        ({"shape": "1"}, "inference request"),
        ({"shape": [1.5]}, "inference request"),
        ({"shape": [0], "data": []}, "different numbers of rows"),
        ({"datatype": "FP65"}, "unknown datatype"),
        ({"datatype": "BYTES"}, "not BYTES"),
        ({"datatype": "BOOL"}, "not BOOL"),
        ({"data": ["1.5"]}, "not FP64"),
        ({"data": [True]}, "not FP64"),
        ({"data": [None]}, "not FP64"),
        ({"data": [5000.0]}, "`size`"),
        ({"data": {}}, "not FP64"),
        ({"data": "1.5"}, "not FP64"),
        ({"name": "prize"}, "`prize`"),
        ({"name": 7}, "inference request"),
        ({"parameters": {"binary_data_size": 8}}, "twice"),
        ({"parameters": []}, "inference request"),
    ],
    ids=str,
)
def test_a_wrong_input_is_refused_with_its_reason(planes: dict[str, Plane], change: Answer, said: str) -> None:
    inputs = [*KEYS, tensor("size", "FP64", 1.5) | change, *NAMED[3:]]
    status, told = asked(planes["fleet"], V2, {"inputs": inputs})
    assert status in (400, 422)
    assert said in told["error"] + told.get("likely", "") + told.get("got", "")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"inputs": []}, "has `inputs`"),
        ({"inputs": NAMED[1:]}, "`store` is missing"),
        ({"inputs": [*NAMED, NAMED[0]]}, "given twice"),
        ({"inputs": [MATRIX]}, "`store` is missing"),
        ({"inputs": [*KEYS, MATRIX, NAMED[2]]}, "`size` is not known"),
        ({"inputs": [*KEYS, MATRIX | {"shape": [3, 1]}]}, "another shape"),
        ({"inputs": [*KEYS, tensor("x", "BYTES", "a", "b", "c", shape=[1, 3])]}, "another datatype"),
        ({"inputs": [*KEYS, tensor("x", "FP64", 1.5, 2.5, 1.0, shape=[1, 3])]}, "`rooms`"),
        ({"inputs": NAMED, "outputs": [{"name": "prize"}]}, "output `prize`"),
        ({"inputs": [*KEYS, tensor("x", "FP64", shape=[0, 3])]}, "1 to"),
        (b'{"inputs": [' + b'{"name":"a","shape":[1],"datatype":"FP64","data":[1]},' * 20_000, "at most"),
        (b'{"inputs": [], "inputs": []}', "twice"),
        (json.dumps({"inputs": NAMED}).encode().replace(b'"shape": [1]', b'"shape": [1], "shape": [1]', 1), "twice"),
        (b"[" * 100_000, "inference request"),
        (json.dumps({"inputs": NAMED}).encode() + b"x", "inference request"),
        (b"\xef\xbb\xbf" + json.dumps({"inputs": NAMED}).encode(), "inference request"),
        (json.dumps({"inputs": NAMED}).encode().replace(b"1.5", b"NaN"), ""),
        (json.dumps({"inputs": NAMED}).encode().replace(b"1.5", b"1e999"), ""),
        (json.dumps({"inputs": NAMED}).encode().replace(b"1.5", b"9" * 5000), ""),
        (json.dumps({"inputs": NAMED}).encode().replace(b"north", b"\\ud800"), ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_request_is_refused_with_its_reason(planes: dict[str, Plane], body: Any, said: str) -> None:
    status, told = asked(planes["fleet"], V2, body)
    assert status in (400, 422)
    assert said in told["error"]


@pytest.mark.parametrize(
    ("tensors", "length", "said"),
    [
        ([STORES, NUMBERS, X], b"0", "inference request"),
        ([STORES, NUMBERS, X], b"99999999", "not within"),
        ([STORES, NUMBERS, X], b"-1", "no number"),
        ([STORES, NUMBERS, X], b"1e3", "no number"),
        ([STORES, NUMBERS, (*X[:3], X[3][:-1])], None, "another shape than its bytes"),
        ([STORES, NUMBERS, (*X[:3], X[3] + b"\x00")], None, "another shape than its bytes"),
        ([(*STORES[:3], texts("north")), NUMBERS, X], None, "another shape than its bytes"),
        ([(*STORES[:3], texts("north", "b")[:-1]), NUMBERS, X], None, "ends behind"),
        ([(*STORES[:3], struct.pack("<I", 2**32 - 1) + b"ab"), NUMBERS, X], None, "ends behind"),
        ([(*STORES[:3], struct.pack("<I", 1) + b"\xff" + texts("a")), NUMBERS, X], None, "not UTF-8"),
        ([("sold", "BOOL", [1], b"\x02")], None, "neither 0 nor 1"),
        ([STORES, NUMBERS, (*X[:3], np.array([[np.nan, 2, 1], [1, 0, 0]], "<f4").tobytes())], None, "`size`"),
        ([STORES, NUMBERS, (*X[:3], np.array([[np.inf, 2, 1], [1, 0, 0]], "<f4").tobytes())], None, "`size`"),
    ],
    ids=str,
)
def test_wrong_bytes_are_refused_with_their_reason(
    planes: dict[str, Plane], tensors: Any, length: bytes | None, said: str
) -> None:
    body, headers = binary(tensors)
    if length is not None:
        headers = [(b"inference-header-content-length", length)]
    status, told = asked(planes["fleet"], V2, body, headers)
    assert status in (400, 422)
    assert said in told["error"]


@pytest.mark.parametrize("size", [9, -1, 1.5, "8", None, True, 2**80])
def test_a_size_that_lies_is_refused(planes: dict[str, Plane], size: Any) -> None:
    told = [{"name": "size", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": size}}]
    text = json.dumps({"inputs": told}).encode()
    headers = [(b"inference-header-content-length", str(len(text)).encode())]
    assert asked(planes["fleet"], V2, text + bytes(8), headers)[0] in (400, 422)


def test_bytes_that_belong_to_nothing_are_refused(planes: dict[str, Plane]) -> None:
    body, headers = binary([STORES, NUMBERS, X])
    status, told = asked(planes["fleet"], V2, body + b"more", headers)
    assert (status, "4 bytes follow" in told["error"]) == (400, True)


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"no gzip", b"gzip", 400),
        (gzip.compress(b"{}", mtime=0)[:-3], b"gzip", 400),
        (b"{}", b"brotli", 400),
        (gzip.compress(bytes(40 << 20), mtime=0), b"gzip", 413),
    ],
    ids=["other bytes", "cut off", "unknown", "a bomb"],
)
def test_a_packed_body_that_is_wrong_is_refused(
    planes: dict[str, Plane], body: bytes, encoding: bytes, status: int
) -> None:
    assert asked(planes["fleet"], "/fleet", body, [(b"content-encoding", encoding)])[0] == status


@given(st.binary(max_size=200), st.integers(0, 300))
def test_no_bytes_and_no_length_break_the_reader(planes: dict[str, Plane], behind: bytes, length: int) -> None:
    body, _ = binary([STORES, NUMBERS, X])
    status, _ = asked(planes["fleet"], V2, body + behind, [(b"inference-header-content-length", str(length).encode())])
    assert status in (200, 400, 422)


ARRAYS = st.lists(
    st.floats(allow_nan=False, allow_infinity=False, width=32, min_value=-900, max_value=900), min_size=1, max_size=6
)


@given(ARRAYS)
def test_numbers_survive_their_bytes(planes: dict[str, Plane], sizes: list[float]) -> None:
    x = np.column_stack([np.array(sizes), np.ones(len(sizes)), np.zeros(len(sizes))])
    tensors = [("x", "FP64", list(x.shape), x.astype("<f8").tobytes())]
    body, headers = binary(tensors, parameters={"binary_data_output": True})
    reply = generally(planes["fleet"], HERE, body, headers)
    length = int(dict(reply.headers)[b"inference-header-content-length"])
    assert np.frombuffer(reply.body[length:], "<f8").tolist() == (10 * x[:, 0] + 20.0).tolist()
    assert msgspec.json.decode(reply.body[:length])["outputs"][0]["shape"] == [len(sizes)]


# ---------------------------------------------------------------- as MLflow's clients ask

OTHER = ROW | {"store": "a,b]", "number": 2}


@pytest.mark.parametrize("path", ["/invocations/fleet", "/models/fleet/invocations"])
@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [ROW, OTHER]},
        {"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values()), list(OTHER.values())]}},
        {"instances": [ROW, OTHER]},
        {"inputs": [ROW, OTHER]},
        {"inputs": {name: [ROW[name], OTHER[name]] for name in ROW}},
    ],
    ids=lambda body: f"{next(iter(body))} {type(next(iter(body.values()))).__name__}",
)
def test_every_form_of_mlflow_is_answered(planes: dict[str, Plane], path: str, body: Answer) -> None:
    assert asked(planes["fleet"], path, body) == (200, {"predictions": [85.0, 0.1 * 1.5 + 0.2 * 2 + 0.3]})


def test_a_class_is_predicted_by_its_label(planes: dict[str, Plane]) -> None:
    body = {"instances": [{"size": 3.0, "kind": "car"}]}
    assert asked(planes["trips"], "/invocations/fleet", body) == (200, {"predictions": ["no"]})


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"instances": [1]},
        {"instances": []},
        {"instances": [ROW], "inputs": [ROW]},
        {"dataframe_split": {"columns": ["size"], "data": [[1, 2]]}},
        {"dataframe_split": []},
        {"inputs": {"size": [1], "rooms": [1, 2]}},
        {"instances": [{"prize": 1}]},
    ],
    ids=str,
)
def test_what_is_no_form_of_mlflow_is_refused(planes: dict[str, Plane], body: Any) -> None:
    status, told = asked(planes["fleet"], "/invocations/fleet", body)
    assert status in (400, 422)
    assert {"error", "code"} <= told.keys()


CSV = [(b"content-type", b"text/csv; charset=utf-8")]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_mlflows_csv_is_answered(planes: dict[str, Plane], ends: str) -> None:
    lines = ["store,number,size,rooms,sold", "north,1,1.5,2,true", '"a,b]",2,1,0,False', ""]
    status, told = asked(planes["fleet"], "/invocations/fleet", ends.join(lines).encode(), CSV)
    assert (status, told) == (200, {"predictions": [85.0, pytest.approx(0.1)]})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b"store,number,size,rooms,sold\n",
        b"store,number,size,rooms,sold\nnorth,1,1.5,2",
        b"store,store\nnorth,north",
        b"store,number,size,rooms,sold\nnorth,1,dear,2,true",
        b"store,number,size,rooms,sold\nnorth,1,1.5,2,perhaps",
        b"store,number,size,rooms,sold\nnorth,,1.5,2,true",
        b"store,number,size,rooms,sold,more\nnorth,1,1.5,2,true,9",
        b'store\n"north',
        b"store\n\xff",
        b"store\n" + b"x" * 200_000,
        b"\0",
    ],
)
def test_a_csv_that_is_wrong_is_refused(planes: dict[str, Plane], body: bytes) -> None:
    status, told = asked(planes["fleet"], "/invocations/fleet", body, CSV)
    assert 400 <= status < 500, told
    assert {"error", "code"} <= told.keys()


# ---------------------------------------------------------------- tokens


def test_a_node_with_a_token_asks_for_it(planes: dict[str, Plane], no_host: Any, no_log: Any) -> None:
    guarded = Plane(no_host(), no_log, Door(b"secret"))
    guarded.applied = planes["fleet"].applied
    body = json.dumps(ROW).encode()
    for headers, status in (
        ([], 401),
        ([(b"authorization", b"Bearer wrong")], 401),
        ([(b"authorization", b"Bearer secret")], 200),
    ):
        assert generally(guarded, "/fleet", body, headers).status == status
        reply = guarded.now(Call("POST", b"/fleet", headers, body), is_plain=True)
        assert reply is not None
        assert reply.status == status
        assert (b"MM209" in reply.body) == (status == 401)
    assert asyncio.run(guarded.respond(Call("GET", b"/v2/health/live", [], b""))).status == 200
    assert asyncio.run(guarded.respond(Call("GET", b"/metrics", [], b""))).status == 401
