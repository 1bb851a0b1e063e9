"""Two releases that share the traffic of one model: the row says who answers, whichever way it came."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from modelmill.artifact.packing import pack
from modelmill.artifact.saved import Programs
from modelmill.artifact.saving import PACKED
from modelmill.errors import ReleasesDiffer
from modelmill.model.columns import Column
from modelmill.model.schema import SchemaSpec
from modelmill.names import Digest, ModelName, Segment, digest_of
from modelmill.registry.fleet import Entry, FleetMap, Header, compose, sign
from modelmill.release.pointers import Beside, Pointer, Published
from modelmill.serving.applied import Applied, apply
from modelmill.serving.calls import Call
from modelmill.serving.door import Door
from modelmill.serving.log import LogPlan, PredictionLog
from modelmill.serving.plane import Plane
from modelmill.serving.split import Split
from modelmill.store.blobs import blobs_of
from modelmill.store.packs import PackWriter
from modelmill.store.signing import SigningKey

NAME = ModelName("sales")
SPEC = SchemaSpec(
    "Sale",
    "A sale.",
    (Column("store", "key", "str"), Column("day", "feature", "float"), Column("sales", "target", "float")),
)
STORES = [f"s{n:02d}" for n in range(50)]


class Mill:
    """A store with two releases: what the second answers is one more."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.blobs, self.key = folder, blobs_of(folder), SigningKey.create(folder)
        self.blobs.put([b"makes the folders"])
        self.maps = {run: self._map(run) for run in (1, 2)}

    def _map(self, run: int, spec: SchemaSpec = SPEC) -> FleetMap:
        from sklearn.linear_model import LinearRegression

        x = np.arange(20.0).reshape(-1, 1)
        content = pack(LinearRegression().fit(x, x[:, 0] + run), 1, 0, Programs()).encode()
        with PackWriter(self.blobs.scratch) as writer:
            place = writer.add(content)
            digest = self.blobs.put_file(writer.finish())
        header = Header(
            model=NAME,
            spec=spec,
            by=("store",),
            task="regression",
            code=digest_of(b"code"),
            entry=("m.py", NAME),
            feature_names=("day",),
            run=run,
        )
        place_of = (digest, place.offset, place.length, digest_of(content))
        segments: list[Segment] = [(), *((store,) for store in STORES)]
        return FleetMap.build(header, [Entry(one, run, PACKED, "packed", *place_of) for one in segments])

    def pointer(self, run: int) -> Pointer:
        signed = sign(self.key, self.maps[run])
        return Pointer(run, self.blobs.put([signed.content])[0], signed.signature)

    def applied(self, before: Applied | None = None, revision: int = 1, **beside: Any) -> Applied:
        one, two = self.pointer(1), self.pointer(2)
        values: dict[str, Any] = {"of": "requests", "share": 0.0, "salt": "salt"} | beside
        found = msgspec.structs.replace(one, beside=Beside(two.release, two.map, two.signature, **values))
        return asyncio.run(apply(self.folder, Published("prod", revision, {NAME: found}), before))

    def ring(self, *stores: str) -> Digest:
        return self.blobs.put([msgspec.msgpack.encode([(store,) for store in stores])])[0]


@pytest.fixture(scope="module")
def mill(tmp_path_factory: pytest.TempPathFactory) -> Mill:
    return Mill(tmp_path_factory.mktemp("split"))


def plane_of(applied: Applied, folder: Path) -> Plane:
    plane = Plane(None, PredictionLog(LogPlan(str(folder / "p"), "off"), [0, 0, 0]), Door())  # type: ignore[arg-type]  # it asks no worker
    plane.applied = applied
    return plane


def ask(plane: Plane, rows: object, path: str = "/sales", *, plain: bool = True) -> bytes:
    call = Call("POST", path.encode(), [], json.dumps(rows).encode())
    reply = plane.now(call, is_plain=plain)
    assert reply is not None
    assert reply.status == 200, reply.body
    return reply.body


def versions(plane: Plane, rows: list[dict[str, Any]], *, plain: bool = True) -> list[int]:
    return [json.loads(ask(plane, row, plain=plain))["version"] for row in rows]


ROWS: list[dict[str, Any]] = [{"store": store, "day": day} for store in STORES for day in range(40)]


def test_requests_are_shared_exactly_and_each_way_alike(mill: Mill, tmp_path: Path) -> None:
    plane = plane_of(mill.applied(share=0.1), tmp_path)
    rows = [{"store": store, "day": day} for store in STORES for day in range(400)]
    quick = versions(plane, rows)
    assert 0.09 <= np.mean(np.array(quick) == 2) <= 0.11  # of 20,000
    assert versions(plane, rows[:500], plain=False) == quick[:500]
    together = json.loads(ask(plane, rows[:500]))
    assert [one["version"] for one in together] == quick[:500]
    expected = [int(str(row["day"])) + version for row, version in zip(rows, quick[:500], strict=False)]
    assert [one["sales"] for one in together] == pytest.approx(expected)


def test_a_larger_share_only_adds(mill: Mill, tmp_path: Path) -> None:
    small, large = (np.array(versions(plane_of(mill.applied(share=s), tmp_path), ROWS)) == 2 for s in (0.1, 0.4))
    assert small.sum() < large.sum()
    assert not (small & ~large).any()


def test_segments_of_the_ring_are_the_candidates(mill: Mill, tmp_path: Path) -> None:
    plane = plane_of(mill.applied(of="segments", ring=mill.ring("s03", "s01", "s02"), count=2), tmp_path)
    found = {store: json.loads(ask(plane, {"store": store, "day": 1}))["version"] for store in STORES}
    assert {store for store, version in found.items() if version == 2} == {"s01", "s03"}
    assert json.loads(ask(plane, {"day": 1}, "/sales[s03]"))["version"] == 2
    (v2,) = _inputs([{"store": "s03", "day": 1.0}])
    for plain in (True, False):
        assert json.loads(ask(plane, v2, "/v2/models/sales/infer", plain=plain))["model_version"] == "2"


def test_a_version_in_the_address_is_no_canary(mill: Mill, tmp_path: Path) -> None:
    plane = plane_of(mill.applied(share=0.5), tmp_path)
    for number in (1, 2):
        answers = [
            ask(plane, row, f"/v2/models/sales/versions/{number}/infer", plain=False) for row in _inputs(ROWS[:20])
        ]
        assert {json.loads(one)["model_version"] for one in answers} == {str(number)}


def _inputs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds = (("store", "BYTES"), ("day", "FP64"))
    return [{"inputs": [{"name": n, "shape": [1], "datatype": t, "data": [row[n]]} for n, t in kinds]} for row in rows]


def test_what_is_open_stays_open(mill: Mill) -> None:
    first = mill.applied(share=0.1)
    second = mill.applied(first, revision=2, share=0.2)
    assert second.releases == first.releases
    assert isinstance(second.models[NAME], Split)


def test_answers_are_counted_by_release(mill: Mill, tmp_path: Path) -> None:
    plane = plane_of(mill.applied(share=0.3), tmp_path)
    found = versions(plane, ROWS[:400])
    ask(plane, ROWS[:400])
    counted: dict[int, int] = {}
    for (_, _, release), seen in plane.meters.take().items():
        counted[release] = counted.get(release, 0) + seen.times
    quick = {1: found.count(1), 2: found.count(2)}
    assert all(counted[release] >= quick[release] for release in quick)


def test_releases_that_take_other_requests_cannot_share(mill: Mill) -> None:
    other = SchemaSpec(
        "Sale",
        "A sale.",
        (Column("store", "key", "str"), Column("hour", "feature", "float"), Column("sales", "target", "float")),
    )
    with pytest.raises(ReleasesDiffer, match="cannot answer beside each other"):
        compose(mill.maps[1], mill._map(2, other), [("s01",)])


def test_a_composed_map_takes_some_segments_of_another(mill: Mill) -> None:
    both = compose(mill.maps[2], mill.maps[1], [("s01",), ("nowhere",)])
    assert {entry.segment: entry.number for entry in both if entry.number == 1} == {("s01",): 1}
    assert len(both) == len(mill.maps[2])
