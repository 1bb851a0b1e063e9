"""A fleet of linear models is built twice, together and one by one: every field of every record is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from modelmill.artifact.saving import decode
from modelmill.build.plan import Step
from modelmill.build.segment import write_tests
from modelmill.build.work import Chunk, ChunkResult, Setup
from modelmill.compute.compute import Done, Limits, Task
from modelmill.compute.local import LocalCompute
from modelmill.data.build_table import BuildTable, write_build_table
from modelmill.data.histogram import freeze_bins
from modelmill.data.snapshot import Segments, starts_of
from modelmill.model.linear import LinearFit
from modelmill.model.loading import load_model_file
from modelmill.names import POOLED, digest_of
from modelmill.registry.records import VersionRecord
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store
from modelmill.store.packs import PackReader

ROWS = {
    "fine": 40,
    "longer": 57,
    "short": 6,
    "constant": 40,
    "steady": 40,
    "law": 40,
    "nan": 40,
    "late nan": 40,
    "far": 40,
}
"""Stores, named after what is special about them."""

FILE = """
from datetime import datetime

import numpy as np

import modelmill as mm


class Sale(mm.Schema):
    store: str = mm.key()
    at: datetime = mm.time()
    size: float | None = mm.col()
    price: float = mm.col()
    weekday: int = mm.col()
    kind: str = mm.category("a", "b")
    open: bool = mm.col()
    sales: float = mm.target()


m = mm.Model("sales", Sale, by=[Sale.store], min_rows=5, metrics=["mae", "rmse", "mape", "r2"])
"""
TOGETHER = "m.train(mm.linear(alpha=1.0))\n"
EACH = """
fit = mm.linear(alpha=1.0)


@m.train
def train(x, y, alpha: float = 1.0, fit_intercept: bool = True):
    return fit(x, y, alpha=alpha, fit_intercept=fit_intercept)
"""
LAWS = """
@m.test
def larger_sells_more(ask):
    assert ask(size=2.0) >= ask(size=1.0) - 0.5
    assert ask(size=2.0, kind="b", open=True) != ask(size=np.random.normal())
    print("asked", ask())
"""
FEATURES = """
@m.features
def features(rows):
    return np.column_stack([np.nan_to_num(rows.size, nan=0.5), rows.price, rows.price**2, rows.weekday == 3])
"""
OWN = """
@m.metric
def largest(y_true, y_pred):
    return abs(y_true - y_pred).max() + np.random.normal()
"""
PREDICT = """
@m.predict
def predict(model, x, segment):
    if segment == ("fine",):
        return np.round(model.predict(x), 3)
    return np.maximum(model.predict(x), -50.0)
"""
WORDS = """
@m.predict
def predict(model, x, rows):
    return model.predict(x) + np.array([len(kind) for kind in rows.kind]) - 1 + np.random.normal(0, 0.1)
"""


def make_frame() -> pl.DataFrame:
    rng = np.random.default_rng(5)
    store = np.repeat(list(ROWS), list(ROWS.values()))
    total = len(store)
    size, price, weekday = rng.normal(size=total), rng.normal(3, 1, total), rng.integers(0, 7, total)
    price[store == "constant"] = 4.2
    price[store == "far"] += 1e6
    sales = np.where(store == "law", -2, 2) * size - (price - price.mean()) / 9 + weekday + rng.normal(0, 0.1, total)
    sales[store == "steady"] = 7.0
    size[np.flatnonzero(store == "nan")[3]] = np.nan
    size[np.flatnonzero(store == "late nan")[38]] = np.nan
    at = np.datetime64("2026-01-01", "us") + np.arange(total) * np.timedelta64(1, "D")
    kind, opened = rng.choice(["a", "b"], total), rng.random(total) < 0.7
    columns = {"size": size, "price": price, "weekday": weekday, "kind": kind, "open": opened, "sales": sales}
    return pl.DataFrame({"store": store, "at": at, **columns}).with_columns(pl.col("size").fill_nan(None))


class Build:
    """One model file, its table, and a worker that builds what it is asked."""

    def __init__(self, root: Path, store: Store, source: str, **parameters: Any) -> None:
        self.store, self.root = store, root
        file = root / "sales_model.py"
        file.write_text(source)
        spec = load_model_file(file, root).models["sales"].spec
        counts = np.array(list(ROWS.values()))
        segments = Segments([(name,) for name in ROWS], starts_of(counts), counts, [bytes(32)] * len(ROWS))
        labelled = write_build_table(root / "table", spec, segments, make_frame())
        write_tests(root / "tests", labelled.rows, 0.2)
        self.steps = [Step(key, start, rows, digest_of(bytes(digest)), "new") for key, start, rows, digest in labelled]
        whole = BuildTable(root / "table", spec).rows(0, sum(ROWS.values()))
        self.setup = Setup(
            file=file,
            root=root,
            model="sales",
            table=root / "table",
            blobs=store.blobs.folder,
            parameters={"alpha": 1.0, "fit_intercept": True} | parameters,
            bins=freeze_bins(spec, whole),
            code=digest_of(b"code"),
            recipe=digest_of(b"recipe"),
            tests=root / "tests",
        )

    def results(self, *chunks: list[Step]) -> list[ChunkResult]:
        """Build the pooled model, then chunks beside it."""
        whole = Step(POOLED, 0, sum(ROWS.values()), digest_of(b"all"), "new")
        with LocalCompute("modelmill.build.fitting:open_fitter", self.setup, workers=1, limits=Limits(30)) as compute:
            first = self._one(compute, Chunk(number=0, steps=[whole]))
            pooled = None
            for version in first.versions:
                path = self.root / "pooled"
                path.write_bytes(self.entry(first, version.offset, version.length, version.artifact))
                pooled = version.format, path
            return [first, *(self._one(compute, Chunk(number=1, steps=steps, pooled=pooled)) for steps in chunks)]

    def everything(self, result: ChunkResult) -> dict[str, Any]:
        """Return, by segment, all that was recorded, with the bytes in the pack decoded."""
        return {version.segment[0]: self._fields(result, version) for version in result.versions if version.segment} | {
            failure.segment[0]: msgspec.structs.asdict(failure) for failure in result.failures if failure.segment
        }

    def entry(self, result: ChunkResult, *place: Any) -> bytes:
        assert result.pack is not None
        return bytes(PackReader(self.store.blobs.open(result.pack)).entry(*place))

    def _fields(self, result: ChunkResult, version: VersionRecord) -> dict[str, Any]:
        fields = msgspec.structs.asdict(version)
        extras = self.entry(result, version.extras_offset, version.extras_length, version.extras)
        model = decode(version.format, self.entry(result, version.offset, version.length, version.artifact))
        coef, intercept = (
            (model.coef_, model.intercept_)
            if isinstance(model, LinearFit)
            else (
                model.body.coef[0],
                model.body.intercept[0],
            )
        )
        dropped = ("artifact", "extras", "offset", "extras_offset")  # these name bytes, which rounding changes
        return {name: value for name, value in fields.items() if name not in dropped} | {
            "coef": coef.tolist(),
            "intercept": float(intercept),
            "programs": None if isinstance(model, LinearFit) else tuple(model.programs),
            "decoded": msgspec.msgpack.decode(extras),
        }

    @staticmethod
    def _one(compute: LocalCompute, chunk: Chunk) -> ChunkResult:
        compute.submit(Task(1, chunk))
        ended = compute.wait()
        assert isinstance(ended, Done), ended
        result: ChunkResult = ended.result
        return result


Make = Callable[..., Build]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(source: str, **parameters: Any) -> Build:
        root = tmp_path / digest_of(f"{source}{parameters}".encode())[:8]
        root.mkdir()
        with open_store(Settings(root=root)) as store:
            return Build(root, store, source, **parameters)

    return build


def assert_same(some: Any, other: Any, at: str = "") -> None:
    """Compare two values field by field, numbers up to rounding."""
    assert type(some) is type(other), at
    if isinstance(some, dict):
        assert list(some) == list(other), at
        for name in some:
            assert_same(some[name], other[name], f"{at}.{name}")
    elif isinstance(some, list):
        assert len(some) == len(other), at
        for place, (one, two) in enumerate(zip(some, other, strict=True)):
            assert_same(one, two, f"{at}[{place}]")
    elif isinstance(some, float):
        assert some == pytest.approx(other, rel=1e-9, abs=1e-9, nan_ok=True), at
    else:
        assert some == other, at


FAILS = {"nan": "train", "late nan": "predict"}


@pytest.mark.parametrize(
    ("parts", "parameters", "failing"),
    [
        ("", {}, FAILS),
        ("", {"alpha": 0.0}, FAILS),
        ("", {"alpha": 0.0, "fit_intercept": False}, FAILS),
        ("", {"alpha": -1.0}, dict.fromkeys(ROWS, "train")),
        (LAWS, {}, {**FAILS, "law": "law", "steady": "law"}),
        (FEATURES + LAWS + OWN, {}, {"law": "law", "steady": "law"}),
        (PREDICT + OWN, {}, FAILS),
        (WORDS + LAWS, {}, {**FAILS, "law": "law"}),
    ],
    ids=["plain", "least squares", "through the origin", "no ridge", "laws", "all", "predict", "untraceable"],
)
def test_what_is_built_together_is_what_is_built_one_by_one(
    make: Make, parts: str, parameters: dict[str, Any], failing: dict[str, str]
) -> None:
    together, each = make(FILE + TOGETHER + parts, **parameters), make(FILE + EACH + parts, **parameters)
    pooled, one = together.results(together.steps)
    pooled_too, other = each.results(each.steps)
    assert [v.metrics for v in pooled.versions] == [v.metrics for v in pooled_too.versions]
    found, expected = together.everything(one), each.everything(other)
    assert {name: record["stage"] for name, record in found.items() if "stage" in record} == failing
    for name in ROWS:
        for record in (found[name], expected[name]):
            for place in ("detail", "fingerprint"):  # of the user's lines, and one of the two has none
                record.pop(place, None)
        assert_same(found[name], expected[name], name)


def test_scattered_segments_are_built_as_neighbours_are(make: Make) -> None:
    build = make(FILE + TOGETHER + LAWS)
    _, whole, some = build.results(build.steps, [*build.steps[4:0:-3], build.steps[0]])
    known, found = build.everything(whole), build.everything(some)
    assert set(found) == {"steady", "longer", "fine"}
    assert found["steady"]["stage"] == "law"
    assert_same(found, {name: known[name] for name in found})


def test_a_packed_model_gives_the_golden_answers_to_the_last_bit(make: Make) -> None:
    build = make(FILE + TOGETHER)
    _, result = build.results(build.steps)
    for version in result.versions:
        assert version.runtime == "packed"
        model = decode(version.format, build.entry(result, version.offset, version.length, version.artifact))
        extras = build.entry(result, version.extras_offset, version.extras_length, version.extras)
        golden = msgspec.msgpack.decode(extras)
        rows = golden["rows"]
        kinds, opened = [["a", "b"].index(kind) for kind in rows["kind"]], np.array(rows["open"], dtype=float)
        x = np.column_stack([rows["size"], rows["price"], rows["weekday"], kinds, opened])
        assert model.answer(np.ascontiguousarray(x, dtype=np.float64)).tolist() == golden["answers"]
