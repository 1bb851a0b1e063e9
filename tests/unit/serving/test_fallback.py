"""Who answers where a segment's own model cannot: the quick way and the general way ask the same, in the same order."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import modelmill as mm
from modelmill.artifact.layout import Link
from modelmill.artifact.linear import Linear
from modelmill.artifact.packed import Packed
from modelmill.artifact.saved import Classes
from modelmill.data.journal import read_journal
from modelmill.model.schema import schema_of
from modelmill.serving.calls import Call, Reply
from modelmill.serving.plane import Plane


class Sale(mm.Schema):
    """Numbers by store."""

    store: str = mm.key()
    size: float = mm.col()
    sales: float = mm.target()


class Trip(mm.Schema):
    """A class by a number."""

    store: str = mm.key()
    size: float = mm.col()
    late: str = mm.label("no", "a bit", "yes")


def linear(coef: float) -> Packed:
    return Packed(Linear(np.array([[coef]]), np.array([0.0])), 1)


BROKEN = linear(np.nan)


def post(plane: Plane, body: Any, path: str = "/fleet") -> tuple[int, Any]:
    """Return the one answer that both ways give."""
    call = Call("POST", path.encode(), [(b"host", b"node")], json.dumps(body).encode(), request=b"mine")
    general = asyncio.run(plane.respond(call))
    now: Reply | None = plane.now(call, is_plain=True)
    assert now is not None
    assert now.body == general.body
    return general.status, json.loads(general.body)


def test_the_safe_answer_where_the_pooled_model_has_none(served: Any, tmp_path: Path) -> None:
    plane = served(tmp_path, schema_of(Sale), {(): BROKEN, ("a",): linear(2), ("b",): BROKEN}, safe=(7.0,))
    assert post(plane, {"store": "a", "size": 3})[1]["answered_by"] == "own"
    expected = {"sales": 7.0, "model": "fleet", "segment": "b", "version": None, "answered_by": "safe"}
    why = "its own model gave no usable answer; the pooled model gave no usable answer"
    assert post(plane, {"store": "b", "size": 3}) == (200, expected | {"why": why})
    why = "no model was built for this segment; the pooled model gave no usable answer"
    assert post(plane, {"store": "new", "size": 3}) == (200, expected | {"segment": "new", "why": why})


def test_the_safe_answer_where_there_is_no_pooled_model(served: Any, tmp_path: Path) -> None:
    plane = served(tmp_path, schema_of(Sale), {("a",): linear(2), ("b",): BROKEN}, safe=(7.0,))
    told = post(plane, {"store": "new", "size": 3})[1]
    assert (told["sales"], told["answered_by"]) == (7.0, "safe")
    assert told["why"] == "no model was built for this segment, and there is no pooled model"
    assert post(plane, {"store": "b", "size": 3})[1]["why"] == "its own model gave no usable answer"


def test_without_a_safe_answer_all_is_as_before(served: Any, tmp_path: Path) -> None:
    plane = served(tmp_path, schema_of(Sale), {(): BROKEN, ("b",): BROKEN})
    assert post(plane, {"store": "b", "size": 3})[0] == 422
    assert post(plane, {"store": "new", "size": 3})[1]["code"] == "MM208"
    alone = served(tmp_path / "alone", schema_of(Sale), {("a",): linear(2)})
    assert post(alone, {"store": "new", "size": 3}) == (
        404,
        {"code": "MM205", "error": "`fleet` has no model for segment `new`, and no pooled model"},
    )


def test_a_model_without_segments_has_a_safe_answer_too(served: Any, tmp_path: Path) -> None:
    plane = served(tmp_path, schema_of(Sale), {(): BROKEN}, by=(), safe=(7.0,))
    told = post(plane, {"store": "b", "size": 3})[1]
    assert (told["sales"], told["answered_by"], told["why"]) == (7.0, "safe", "its own model gave no usable answer")


def test_a_safe_answer_of_classes(served: Any, tmp_path: Path) -> None:
    labels = ("no", "a bit", "yes")
    broken = Packed(Linear(np.full((3, 1), np.nan), np.zeros(3), Link.SOFTMAX, 3), 1, classes=Classes(3, (0, 1, 2)))
    plane = served(tmp_path, schema_of(Trip), {(): broken}, labels=labels, safe=(0.25, 0.0, 0.75))
    told = post(plane, [{"store": "b", "size": 3}, {"store": "c", "size": 3}])[1]
    assert [one["late"] for one in told] == ["yes", "yes"]
    assert told[0]["probabilities"] == {"no": 0.25, "a bit": 0.0, "yes": 0.75}


def test_v2_says_how_many_rows_were_answered_safely(served: Any, tmp_path: Path) -> None:
    plane = served(tmp_path, schema_of(Sale), {(): BROKEN, ("a",): linear(2)}, safe=(7.0,))
    inputs = [
        {"name": "store", "shape": [2], "datatype": "BYTES", "data": ["a", "new"]},
        {"name": "size", "shape": [2], "datatype": "FP64", "data": [1.0, 1.0]},
    ]
    told = post(plane, {"inputs": inputs}, "/v2/models/fleet/infer")[1]
    assert told["parameters"] == {"pooled": 0, "safe": 1}
    assert told["outputs"][0]["data"] == [2.0, 7.0]


def test_a_damaged_pack_is_answered_safely_and_told(served: Any, tmp_path: Path) -> None:
    plane = served(tmp_path, schema_of(Sale), {(): linear(1), ("a",): linear(2)}, safe=(7.0,))
    (pack,) = plane.applied.models["fleet"].map.packs
    path = plane.applied.models["fleet"]._blobs.path_of(pack)
    path.chmod(0o600)
    path.write_bytes(bytes(path.stat().st_size))
    told = post(plane, {"store": "a", "size": 3})[1]
    assert (told["sales"], told["answered_by"]) == (7.0, "safe")
    assert "damaged" in plane.applied.broken["fleet"]


def test_every_safe_answer_is_counted_as_a_failure_and_logged(served: Any, tmp_path: Path) -> None:
    plane = served(tmp_path, schema_of(Sale), {("a",): linear(2)}, safe=(7.0,))
    post(plane, {"store": "a", "size": 3})
    post(plane, {"store": "new", "size": 3})
    counted = {place[1]: (found.times, found.failed) for place, found in plane.meters.take().items()}
    assert counted == {"a": (2, 0), "*": (2, 2)}  # both ways were asked
    plane._log.finish()
    groups = [group for path in tmp_path.glob("predictions/*") for group in read_journal(path)]
    records = [record for group in groups for record in group.records]
    logged = [msgspec.to_builtins(record.answerer) for record in records if record.answerer.segment == "new"]
    why = "no model was built for this segment, and there is no pooled model"
    assert logged == [("fleet", 3, "new", 0, why, "", 1)] * 2


@pytest.mark.parametrize("safe", [(), (7.0,)])
def test_rows_of_one_request_are_answered_each_by_its_own(served: Any, tmp_path: Path, safe: tuple[float, ...]) -> None:
    told = {"safe": safe} if safe else {}
    plane = served(tmp_path, schema_of(Sale), {(): linear(1), ("a",): linear(2)}, **told)
    rows = [{"store": store, "size": 3} for store in ("new", "a", "new")]
    assert [one["answered_by"] for one in post(plane, rows)[1]] == ["pooled", "own", "pooled"]


def test_a_segment_that_nobody_knows_makes_no_meter_of_its_own_where_nobody_answers(
    served: Any, tmp_path: Path
) -> None:
    plane = served(tmp_path, schema_of(Sale), {(): BROKEN, ("a",): linear(2)})
    for name in ("one", "another"):
        assert post(plane, {"store": name, "size": 3})[0] == 422
    assert {segment for _, segment, _ in plane.meters.take()} == {"*"}
