"""The chain of who answers: always the most specific model that exists and is usable, and no name stands for two things."""

from __future__ import annotations

from itertools import product

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from modelmill.model.columns import Column
from modelmill.model.schema import SchemaSpec
from modelmill.names import (
    POOLED,
    ModelName,
    Parent,
    Segment,
    digest_of,
    format_segment,
    is_shared,
    parse_segment,
)
from modelmill.registry.fleet import NOT_BETTER, NOT_BUILT, SAFE, Entry, FleetMap, Header, decode

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(
    ["", "*", "=", "pooled", "region=north", "a=b,c=d", "%3D", "own", "safe"]
)
COLUMNS = ("region", "größe", "chain_2")
PARENTS = st.dictionaries(st.sampled_from(COLUMNS), TEXTS, min_size=1).map(Parent.of)
SEGMENTS = st.lists(TEXTS, min_size=1, max_size=3).map(tuple)


@given(PARENTS | SEGMENTS)
def test_every_name_is_written_in_one_way_and_read_back(name: Segment) -> None:
    again = parse_segment(format_segment(name))
    assert again == name
    assert is_shared(again) == isinstance(name, Parent)


@given(SEGMENTS, PARENTS)
def test_no_segment_is_written_as_a_parent_or_equal_to_one(segment: Segment, parent: Parent) -> None:
    twin = tuple(parent)
    for one in (segment, twin, POOLED):
        assert one != parent
        assert format_segment(one) != format_segment(parent)
    assert {twin: 1, parent: 2} == {parent: 2, twin: 1}
    assert len({twin, parent}) == 2


# ---------------------------------------------------------------- the chain

SPEC = SchemaSpec(
    "Sale",
    "",
    (
        Column("region", "key", "str"),
        Column("chain", "key", "str"),
        Column("store", "key", "str"),
        Column("sales", "target", "float"),
    ),
)
LEVELS = (("region", "chain"), ("chain",), ("region",))
STORES, CHAINS, REGIONS = ("s1", "region=r1", "*"), ("c1", "pooled"), ("r1", "*", "=")


def entry(segment: Segment, state: str = "own", why: str = "") -> Entry:
    content = digest_of(format_segment(segment).encode())
    return Entry(segment, 1, "packed", "packed", digest_of(b"pack"), 0, 1, content, state, why)


def fleet(built: set[Segment], lost: set[Segment], safe: tuple[float, ...]) -> FleetMap:
    header = Header(
        model=ModelName("sales"),
        spec=SPEC,
        by=("store", "chain"),
        task="regression",
        code=digest_of(b"code"),
        entry=("sales.py", "sales"),
        levels=LEVELS,
        safe=safe or msgspec.UNSET,
    )
    entries = [entry(name, *(("pooled", NOT_BETTER) if name in lost else ())) for name in built]
    return decode(FleetMap.build(header, entries).encode())


ALL: list[Segment] = [
    POOLED,
    *product(STORES, CHAINS),
    *(Parent.of({"region": r, "chain": c}) for r, c in product(REGIONS, CHAINS)),
    *(Parent.of({"region": r}) for r in REGIONS),
    *(Parent.of({"chain": c}) for c in CHAINS),
]


@given(
    built=st.sets(st.sampled_from(ALL)),
    lost=st.sets(st.sampled_from(ALL)),
    region=st.sampled_from(REGIONS) | st.none(),
    chain=st.sampled_from(CHAINS) | st.none(),
)
def test_for_a_parent_those_answer_that_its_values_decide(
    built: set[Segment], lost: set[Segment], region: str | None, chain: str | None
) -> None:
    values = {name: value for name, value in (("region", region), ("chain", chain)) if value is not None}
    if not values:
        return
    own = Parent.of(values)
    found, _ = fleet(built, lost - {POOLED}, ()).chain(own)
    wider = [Parent.of({name: values[name]}) for name in ("chain", "region")] if len(values) > 1 else []
    expected = [name for name in (own, *wider, POOLED) if name in built - (lost - {POOLED})]
    assert [one.segment for one in found] == expected


@given(
    built=st.sets(st.sampled_from(ALL)),
    lost=st.sets(st.sampled_from(ALL)),
    store=st.sampled_from(STORES),
    chain=st.sampled_from(CHAINS),
    region=st.sampled_from(REGIONS) | st.none(),
    safe=st.sampled_from([(), (7.0,)]),
)
def test_the_most_specific_model_that_exists_answers(
    built: set[Segment], lost: set[Segment], store: str, chain: str, region: str | None, safe: tuple[float, ...]
) -> None:
    lost = lost - {POOLED}
    own: Segment = (store, chain)
    found, why = fleet(built, lost, safe).chain(own, (region,))
    usable = built - lost
    parents: list[Segment] = [Parent.of({"chain": chain})]
    if region is not None:
        parents = [Parent.of({"region": region, "chain": chain}), *parents, Parent.of({"region": region})]
    if own in built & lost and POOLED in built:
        parents = []  # measured: the pooled model is better than its own, of the others nothing is known
    expected = [name for name in (own, *parents, POOLED) if name in usable]
    assert [one.segment for one in found if one.state != SAFE] == expected
    assert [one.state for one in found if one.state == SAFE] == [SAFE] * bool(safe)
    assert [one.state for one in found[:-1]].count(SAFE) == 0
    if own in usable:
        assert why == ""
    elif own in built:
        assert why.startswith(NOT_BETTER)
    else:
        assert why.startswith(NOT_BUILT)
    told = [one.answers_as(own) for one in found]
    assert len(set(told)) == len(told)


@given(built=st.sets(st.sampled_from(ALL), min_size=1))
def test_a_map_without_levels_never_asks_a_parent(built: set[Segment]) -> None:
    header = fleet(built, set(), ()).header
    plain = Header(model=header.model, spec=SPEC, by=header.by, task=header.task, code=header.code, entry=header.entry)
    found, _ = FleetMap.build(plain, [entry(name) for name in built]).chain(("s1", "c1"))
    assert {one.segment for one in found} == {("s1", "c1"), POOLED} & built
