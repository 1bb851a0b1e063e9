"""One chunk in a worker: what is built is tested and complete, what fails is a value, and neither disturbs the other.

The fleet is small: stores that behave, and stores that are named after what they do wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
import pytest

from modelmill.artifact.saving import decode
from modelmill.build.fitting import abreast, neighbours
from modelmill.build.plan import Step
from modelmill.build.segment import seed_of, write_tests
from modelmill.build.segment import tests_of as rows_that_test
from modelmill.build.work import Chunk, ChunkResult, Setup
from modelmill.compute.compute import Done, Limits, Task
from modelmill.compute.local import LocalCompute
from modelmill.data.build_table import BuildTable, write_build_table
from modelmill.data.histogram import freeze_bins
from modelmill.data.snapshot import Segments, starts_of
from modelmill.errors import FeaturesNotRowWise
from modelmill.model.loading import load_model_file
from modelmill.names import POOLED, Digest, digest_of
from modelmill.registry.records import VersionRecord
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store
from modelmill.store.packs import PackReader

ROWS = 40
STORES = ["fine", "law", "nan", "none", "other", "print", "raise", "random", "short", "unsaveable"]
MODEL = '''
"""Sales."""
import threading
from datetime import datetime

import numpy as np

import modelmill as mm


class Sale(mm.Schema):
    """One sale."""

    store: str = mm.key()
    at: datetime = mm.time()
    size: float = mm.col()
    sales: float = mm.target()


m = mm.Model("sales", Sale, by=[Sale.store], min_rows=5)


@m.train
def train(x, y, segment, level: float = 0.0):
    name = segment[0] if segment else ""
    if name == "raise":
        raise ValueError("no model for 17 rows")
    if name == "print":
        print("x" * 10_000)
        return 1 / 0
    if name == "none":
        return None
    if name == "unsaveable":
        return {"lock": threading.Lock()}
    coefficient = np.linalg.lstsq(x, y, rcond=None)[0]
    return coefficient + np.random.normal() if name == "random" else coefficient


@m.predict
def predict(model, x, segment):
    if isinstance(model, dict):
        return x[:, 0]
    answers = x @ model
    if segment == ("random",):
        answers = answers + np.random.normal(0, 0.01)
    if segment == ("nan",):
        return answers * np.nan
    return answers[1:] if segment == ("short",) else answers


@m.test
def larger_sells_more(ask):
    assert ask(size=2.0) > ask(size=1.0)
'''


class Fleet(NamedTuple):
    """What a build has before its first chunk."""

    store: Store
    setup: Setup
    table: BuildTable
    steps: list[Step]

    def step(self, name: str) -> Step:
        """Return the step of a store."""
        return next(step for step in self.steps if step.segment == (name,))

    def whole(self) -> Step:
        """Return the step of the pooled model."""
        return Step(POOLED, 0, ROWS * len(STORES), digest_of(b"all"), "new")


def make_frame() -> pl.DataFrame:
    rng = np.random.default_rng(5)
    total = ROWS * len(STORES)
    size = rng.normal(size=total)
    slope = np.repeat([-2.0 if name == "law" else 2.0 for name in STORES], ROWS)
    return pl.DataFrame(
        {
            "store": np.repeat(np.array(STORES, dtype=object), ROWS),
            "at": [datetime(2026, 1, 1 + row % 28) for row in range(total)],  # noqa: DTZ001
            "size": size,
            "sales": slope * size + rng.normal(0, 0.1, total),
        }
    )


def make_fleet(root: Path, store: Store, source: str = MODEL) -> Fleet:
    """Write a model file and its table, as a training does."""
    file = root / "sales_model.py"
    file.write_text(source)
    spec = load_model_file(file, root).models["sales"].spec
    counts = np.full(len(STORES), ROWS, dtype=np.int64)
    segments = Segments([(name,) for name in STORES], starts_of(counts), counts, [bytes(32)] * len(STORES))
    labelled = write_build_table(root / "table", spec, segments, make_frame())
    write_tests(root / "tests", labelled.rows, 0.2)
    table = BuildTable(root / "table", spec)
    setup = Setup(
        file=file,
        root=root,
        model="sales",
        table=root / "table",
        blobs=store.blobs.folder,
        parameters={"level": 0.0},
        bins=freeze_bins(spec, table.rows(0, ROWS * len(STORES))),
        code=digest_of(b"code"),
        recipe=digest_of(b"recipe"),
        tests=root / "tests",
    )
    steps = [Step(segment, start, rows, Digest(digest.hex()), "new") for segment, start, rows, digest in labelled]
    return Fleet(store, setup, table, steps)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root = tmp_path_factory.mktemp("fleet")
    with open_store(Settings(root=root)) as store:
        yield make_fleet(root, store)


Fit = Callable[[list[Step]], ChunkResult]


@pytest.fixture(scope="module")
def fit(fleet: Fleet) -> Iterator[Fit]:
    """Return a function that fits steps as one chunk, in a real worker."""
    with LocalCompute("modelmill.build.fitting:open_fitter", fleet.setup, workers=1, limits=Limits(20)) as compute:

        def run(steps: list[Step]) -> ChunkResult:
            compute.submit(Task(1, Chunk(number=1, steps=steps)))
            ended = compute.wait()
            assert isinstance(ended, Done), ended
            result: ChunkResult = ended.result
            return result

        yield run


BUILT = {"fine", "other", "random"}


@pytest.fixture(scope="module")
def result(fit: Fit, fleet: Fleet) -> ChunkResult:
    return fit(fleet.steps)


def version_of(result: ChunkResult, name: str) -> VersionRecord:
    return next(version for version in result.versions if version.segment == (name,))


def extras_of(fleet: Fleet, result: ChunkResult, version: VersionRecord) -> Any:
    assert result.pack is not None
    assert version.extras is not None
    pack = PackReader(fleet.store.blobs.open(result.pack))
    return msgspec.msgpack.decode(pack.entry(version.extras_offset, version.extras_length, version.extras))


def test_every_segment_is_built_or_a_failure(result: ChunkResult) -> None:
    assert {version.segment[0] for version in result.versions} == BUILT
    assert {failure.segment[0] for failure in result.failures} == set(STORES) - BUILT


@pytest.mark.parametrize(
    ("name", "stage", "code", "said"),
    [
        ("raise", "train", "MM306", "ValueError: no model for 17 rows"),
        ("print", "train", "MM306", "ZeroDivisionError"),
        ("none", "train", "MM307", "returned None"),
        ("nan", "predict", "MM307", "NaN"),
        ("short", "predict", "MM307", "7 answers for 8 rows"),
        ("law", "law", "MM401", "larger_sells_more"),
        ("unsaveable", "save", "MM301", "['lock']"),
    ],
)
def test_a_failure_names_its_stage_and_cause(result: ChunkResult, name: str, stage: str, code: str, said: str) -> None:
    failure = next(failure for failure in result.failures if failure.segment == (name,))
    assert (failure.stage, failure.code) == (stage, code)
    assert said in failure.summary


def test_what_a_failing_segment_printed_is_kept_short(result: ChunkResult) -> None:
    failure = next(failure for failure in result.failures if failure.segment == ("print",))
    assert "printed: xxx" in failure.detail
    assert len(failure.detail) < 1000


def test_a_version_is_judged_on_its_last_rows(fleet: Fleet, result: ChunkResult) -> None:
    step, version = fleet.step("fine"), version_of(result, "fine")
    rows = fleet.table.rows(step.start, step.start + step.rows)
    x, y = rows["size"], rows["sales"]
    slope = (x[:32] @ y[:32]) / (x[:32] @ x[:32])
    assert (version.rows, version.test_rows) == (ROWS, 8)
    assert version.metrics["mae"] == pytest.approx(np.abs(y[32:] - slope * x[32:]).mean())
    assert version.metrics["mae:mean"] == pytest.approx(np.abs(y[32:] - y[:32].mean()).mean())


def test_golden_rows_are_test_rows_with_the_answers_of_the_saved_model(fleet: Fleet, result: ChunkResult) -> None:
    version, step = version_of(result, "other"), fleet.step("other")
    golden = extras_of(fleet, result, version)
    assert result.pack is not None
    pack = PackReader(fleet.store.blobs.open(result.pack))
    slope = decode(version.format, pack.entry(version.offset, version.length, version.artifact))
    last = fleet.table.rows(step.start + step.rows - 5, step.start + step.rows)
    assert golden["rows"]["size"] == last["size"].tolist()
    assert golden["rows"]["store"] == ["other"] * 5
    assert golden["answers"] == pytest.approx((last["size"] * slope).tolist())


def test_every_row_is_counted_once_in_each_histogram(fleet: Fleet, result: ChunkResult) -> None:
    for version in result.versions:
        histograms = extras_of(fleet, result, version)["histograms"]
        assert [int(np.frombuffer(h, np.int32).sum()) for h in histograms] == [ROWS] * len(fleet.setup.bins)


@pytest.mark.parametrize("seed", range(3))
def test_neither_chunk_nor_order_changes_a_model(fit: Fit, fleet: Fleet, result: ChunkResult, seed: int) -> None:
    known = {version.segment: (version.artifact, version.extras, version.metrics) for version in result.versions}
    steps = random.Random(seed).sample(fleet.steps, k=len(fleet.steps))
    for part in (steps[:3], steps[3:]):
        for version in fit(part).versions:
            assert (version.artifact, version.extras, version.metrics) == known[version.segment]


def test_what_is_drawn_depends_on_no_neighbour(fit: Fit, fleet: Fleet) -> None:
    (alone,) = fit([fleet.step("random")]).versions
    (beside,) = fit([fleet.step("random"), fleet.step("short")]).versions
    assert (beside.artifact, beside.extras, beside.metrics) == (alone.artifact, alone.extras, alone.metrics)


def test_a_chunk_without_versions_has_no_pack(fit: Fit, fleet: Fleet) -> None:
    alone = fit([fleet.step("raise")])
    assert (alone.pack, alone.versions, len(alone.failures)) == (None, [], 1)
    assert not list(fleet.store.blobs.scratch.iterdir())


def test_the_pooled_model_is_tested_on_the_last_rows_of_every_segment(fit: Fit, fleet: Fleet) -> None:
    (version,) = fit([fleet.whole()]).versions
    assert version.segment == ()
    assert version.test_rows == 8 * len(STORES)


@pytest.mark.parametrize(
    "body", ["(rows.size - rows.size.mean()).reshape(-1, 1)", "rows.size[1:].max() * rows.size.reshape(-1, 1)"]
)
def test_features_that_look_at_other_rows_are_refused(tmp_path: Path, body: str) -> None:
    source = f"{MODEL}\n\n@m.features\ndef features(rows):\n    return {body}\n"
    with open_store(Settings(root=tmp_path)) as store:
        fleet = make_fleet(tmp_path, store, source)
        with LocalCompute("modelmill.build.fitting:open_fitter", fleet.setup, workers=1) as compute:
            compute.submit(Task(1, Chunk(number=1, steps=fleet.steps)))
            with pytest.raises(FeaturesNotRowWise, match="rows around it"):
                compute.wait()


class _Rows(NamedTuple):
    step: Step


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], []),
        ([10] * 9, [8, 1]),
        ([20_000, 10, 10], [1, 2]),
        ([10, 16_384, 10], [1, 1, 1]),
        ([16_374, 10, 10], [2, 1]),
        ([20_000] * 2, [1, 1]),
    ],
)
def test_only_small_segments_go_through_the_stages_together(rows: list[int], expected: list[int]) -> None:
    segments: Any = [_Rows(Step(("a",), 0, count, Digest(""), "")) for count in rows]
    assert [len(some) for some in abreast(segments)] == expected


def test_neighbours_are_found() -> None:
    steps = [Step((name,), start, 10, Digest(""), "") for name, start in (("a", 0), ("b", 10), ("c", 30), ("d", 40))]
    assert [[step.segment[0] for step in group] for group in neighbours(steps)] == [["a", "b"], ["c", "d"]]
    assert not list(neighbours([]))


@pytest.mark.parametrize(("rows", "expected"), [(1, 1), (2, 1), (5, 1), (10, 2), (100, 20)])
def test_at_least_one_row_tests(rows: int, expected: int) -> None:
    assert rows_that_test(rows, 0.2) == expected


def test_the_last_rows_of_each_segment_are_marked(tmp_path: Path) -> None:
    write_tests(tmp_path / "marks", np.array([5, 0, 2], dtype=np.int64), 0.4)
    assert list((tmp_path / "marks").read_bytes()) == [0, 0, 0, 1, 1, 0, 1]


def test_seeds_differ_by_segment_and_by_the_models_seed() -> None:
    assert seed_of(0, ("a",)) == seed_of(0, ("a",))
    assert len({seed_of(0, ("a",)), seed_of(1, ("a",)), seed_of(0, ("b",)), seed_of(0, ())}) == 4
