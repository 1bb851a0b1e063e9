"""The plan says of every segment what happens to it, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelmill.build.plan import ONE_CLASS, UNCHANGED, Plan, has_several_classes, plan_build, reason_for
from modelmill.data.snapshot import Segments, starts_of
from modelmill.model.declaration import Model
from modelmill.model.loading import load_model_file
from modelmill.names import POOLED, Digest, Segment, digest_of
from modelmill.registry.change import Digests
from modelmill.registry.records import Head

MODEL = """
import modelmill as mm


class Sale(mm.Schema):
    store: str = mm.key()
    size: float = mm.col()
    sales: float = mm.target()


m = mm.Model("sales", Sale, by=[Sale.store], min_rows=5)


@m.train
def train(x, y):
    return None
"""
CODE, RECIPE = digest_of(b"code"), digest_of(b"recipe")


def segments(*counts: int) -> Segments:
    rows = np.array(counts, dtype=np.int64)
    keys: list[Segment] = [(chr(ord("a") + place),) for place in range(len(counts))]
    return Segments(keys, starts_of(rows), rows, [bytes([place]) * 32 for place in range(len(counts))])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    root: Path = tmp_path_factory.mktemp("plan")
    (root / "planned_model.py").write_text(MODEL)
    return load_model_file(root / "planned_model.py", root).models["sales"]


def built(known: Segments, code: Digest = CODE, recipe: Digest = RECIPE) -> dict[Segment, Head]:
    heads = {key: Head(1, Digests(code, Digest(digest.hex()), recipe), failed=False) for key, _, _, digest in known}
    return heads | {POOLED: Head(1, Digests(code, known.whole(), recipe), failed=False)}


def plan_of(model: Model, known: Segments, heads: dict[Segment, Head]) -> Plan:
    return plan_build(model, known, np.ones(len(known), dtype=bool), CODE, RECIPE, heads)


def test_everything_is_new_at_first(model: Model) -> None:
    plan = plan_of(model, segments(10, 20), {})
    assert plan.reasons() == {"new": 2}
    assert plan.pooled is not None
    assert (plan.pooled.rows, [step.start for step in plan.steps]) == (30, [0, 10])


def test_nothing_is_built_again(model: Model) -> None:
    known = segments(10, 20)
    plan = plan_of(model, known, built(known))
    assert plan.empty
    assert plan.reasons() == {UNCHANGED: 2}


def test_what_was_saved_in_an_earlier_format_is_built_again() -> None:
    digests = Digests(CODE, CODE, CODE)
    assert reason_for(digests, Head(1, digests, failed=False, readable=False)) == "saved in an earlier format"
    assert reason_for(digests, Head(1, digests, failed=False)) == UNCHANGED


@pytest.mark.parametrize(
    ("code", "recipe", "reason"),
    [
        (digest_of(b"x"), RECIPE, "code changed"),
        (CODE, digest_of(b"x"), "model changed"),
        (digest_of(b"x"), digest_of(b"x"), "code and model changed"),
    ],
)
def test_what_changed_is_named(model: Model, code: Digest, recipe: Digest, reason: str) -> None:
    known = segments(10, 20)
    plan = plan_of(model, known, built(known, code, recipe))
    assert plan.reasons() == {reason: 2}


def test_only_segments_with_other_rows_are_built(model: Model) -> None:
    known = segments(10, 20, 30)
    heads = built(known)
    heads["b",] = Head(1, Digests(CODE, digest_of(b"earlier rows"), RECIPE), failed=False)
    plan = plan_of(model, known, heads)
    assert [(step.segment, step.reason) for step in plan.steps] == [(("b",), "data changed")]


@pytest.mark.parametrize("never_built", [True, False])
def test_what_failed_is_tried_again(model: Model, never_built: bool) -> None:
    known = segments(10)
    heads = built(known)
    heads["a",] = Head(None, None, failed=True) if never_built else Head(1, heads["a",].digests, failed=True)
    assert plan_of(model, known, heads).reasons() == {"failed last time": 1}


def test_small_segments_and_those_of_one_class_are_left_to_the_pooled_model(model: Model) -> None:
    several = np.array([True, False, True])
    plan = plan_build(model, segments(4, 10, 10), several, CODE, RECIPE, {})
    assert plan.without == {("a",): "fewer than 5 labelled rows", ("b",): ONE_CLASS}
    assert [step.segment for step in plan.steps] == [("c",)]


def test_every_segment_is_explained_once_in_order(model: Model) -> None:
    known = segments(10, 3, 10)
    heads = built(known)
    del heads["c",]
    plan = plan_of(model, known, heads)
    explained = list(plan.explain())
    assert explained == [("a", UNCHANGED), ("b", "fewer than 5 labelled rows"), ("c", "new")]


def test_segments_with_one_class_are_seen() -> None:
    y = np.array([0, 0, 0, 0, 1, 1])
    assert has_several_classes(y, segments(2, 1, 2, 0, 1)).tolist() == [False, False, True, False, False]
    assert has_several_classes(y[:0], segments(0, 0)).tolist() == [False, False]
