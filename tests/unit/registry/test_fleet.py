"""The fleet map: which bytes answer for which segment."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from modelmill.errors import BlobBroken, SignatureInvalid
from modelmill.model.columns import Column
from modelmill.model.schema import SchemaSpec
from modelmill.names import ModelName, digest_of
from modelmill.registry.fleet import Entry, FleetMap, Header, Home, SignedMap, compose, decode, sign, with_locks
from modelmill.store.signing import SigningKey

SPEC = SchemaSpec("Flight", "A flight.", (Column("carrier", "key", "str"), Column("delay", "target", "float")))
HEADER = Header(
    model=ModelName("air-time"),
    spec=SPEC,
    by=("carrier",),
    task="regression",
    code=digest_of(b"code"),
    entry=("airtime", "air-time"),
    parameters={"alpha": 1.5},
)
PACKS = (digest_of(b"pack 1"), digest_of(b"pack 2"))


def entry(name: str, place: int = 0, **others: Any) -> Entry:
    values = {"segment": (name,), "number": 3, "format": "packed", "runtime": "packed", "pack": PACKS[place % 2]}
    return Entry(**{**values, "offset": 64 * place, "length": 7, "artifact": digest_of(name.encode()), **others})


ENTRIES = [
    entry("UA", 1),
    entry("AA", 2, number=2, format="pickle", runtime="python"),
    entry("New York, [x]/..", 3),
    entry("DL", 4, state="pooled", why="own model not better"),
    entry("", 5, segment=()),
]


def test_a_map_returns_its_entries() -> None:
    fleet = FleetMap.build(HEADER, ENTRIES)
    assert len(fleet) == 5
    assert sorted(fleet) == sorted(ENTRIES)
    assert [fleet.find(one.segment) for one in ENTRIES] == ENTRIES
    assert fleet.find(("nowhere",)) is None
    assert sorted(fleet.packs) == sorted(PACKS)


def test_a_map_survives_its_bytes() -> None:
    found = decode(FleetMap.build(HEADER, ENTRIES).encode())
    assert found.header == HEADER
    assert sorted(found) == sorted(ENTRIES)


def test_the_order_of_the_entries_leaves_no_trace() -> None:
    assert FleetMap.build(HEADER, ENTRIES).encode() == FleetMap.build(HEADER, ENTRIES[::-1]).encode()


def test_an_empty_map() -> None:
    found = decode(FleetMap.build(HEADER, []).encode())
    assert (list(found), found.packs) == ([], [])


def test_only_a_signed_map_is_opened() -> None:
    key = SigningKey(bytes(range(32)))
    signed = sign(key, FleetMap.build(HEADER, ENTRIES))
    assert len(signed.open(key.public)) == 5
    changed = signed.content.replace(b"alpha", b"gamma")
    for forged in (SignedMap(changed, signed.signature), SignedMap(signed.content, bytes(64))):
        with pytest.raises(SignatureInvalid):
            forged.open(key.public)
    with pytest.raises(SignatureInvalid):
        signed.open(SigningKey(bytes(32)).public)


@pytest.mark.parametrize("content", [b"", b"\x80", b"nonsense", bytes(100)])
def test_what_is_no_map_is_refused(content: bytes) -> None:
    with pytest.raises(BlobBroken):
        decode(content)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("offsets", b"\0" * 8),
        ("artifacts", b""),
        ("packs", []),
        ("kinds", []),
        ("numbers", b"\0" * 3),
        ("pack_index", b"\xff" * 20),
    ],
)
def test_columns_that_do_not_fit_are_refused(column: str, value: object) -> None:
    content = msgspec.msgpack.decode(FleetMap.build(HEADER, ENTRIES).encode())
    content["columns"][column] = value
    with pytest.raises(BlobBroken):
        decode(msgspec.msgpack.encode(content))


def test_a_map_of_another_format_is_refused() -> None:
    content = msgspec.msgpack.decode(FleetMap.build(HEADER, ENTRIES).encode())
    with pytest.raises(BlobBroken, match="another format"):
        decode(msgspec.msgpack.encode({**content, "format": 1}))


def test_a_hundred_thousand_segments_are_one_small_blob() -> None:
    entries = (entry(f"store-{number:06d}", number) for number in range(100_000))
    content = FleetMap.build(HEADER, entries).encode()
    assert len(content) < 100 * 100_000
    assert decode(content).find(("store-077777",)) == entry("store-077777", 77_777)


def test_the_packs_that_answer_are_those_of_models_that_are_asked() -> None:
    own, other = entry("a", 1), entry("b", 2)._replace(state="pooled", pack=digest_of(b"another"))
    assert FleetMap.build(HEADER, [own, other]).answering_packs() == {own.pack}
    assert FleetMap.build(HEADER, []).answering_packs() == set()


# ---------------------------------------------------------------- where Python runs

NOW, BEFORE, OTHER = (digest_of(text) for text in (b"lock now", b"lock before", b"another code"))
PYTHON = [
    entry("AA", number=2, format="pickle", runtime="python"),
    entry("DL", number=3, format="pickle", runtime="python"),
    entry("OO", number=1, format="pickle", runtime="python", state="pooled", why="it lost"),
    entry("UA", number=1),
]


def header_of(run: int, lock: Any) -> Header:
    return msgspec.structs.replace(HEADER, run=run, lock=lock)


def test_what_was_not_built_again_stays_in_the_environment_that_it_was_built_in() -> None:
    locks = {1: BEFORE, 2: BEFORE, 3: NOW}
    fleet = FleetMap.build(with_locks(header_of(3, NOW), PYTHON, locks), PYTHON)
    # Of those that nobody asks, and of packed ones, no environment is needed.
    assert fleet.header.locks == ((1, BEFORE), (2, BEFORE))
    assert fleet.homes() == {Home(HEADER.code, BEFORE), Home(HEADER.code, NOW)}
    assert [fleet.home_of(one).lock for one in PYTHON[:2]] == [BEFORE, NOW]


def test_a_map_of_one_environment_names_no_other() -> None:
    fleet = FleetMap.build(with_locks(header_of(3, NOW), PYTHON, dict.fromkeys((1, 2, 3), NOW)), PYTHON)
    assert fleet.header.locks is msgspec.UNSET
    assert fleet.homes() == {Home(HEADER.code, NOW)}
    assert FleetMap.build(HEADER, []).homes() == set()


def test_a_composed_map_keeps_the_environment_of_either_side() -> None:
    base = FleetMap.build(header_of(3, NOW), [PYTHON[1]])
    other = FleetMap.build(msgspec.structs.replace(header_of(2, BEFORE), code=OTHER), [PYTHON[0]])
    both = compose(base, other, [("AA",)])
    assert both.homes() == {Home(HEADER.code, NOW), Home(OTHER, BEFORE)}
    back = compose(other, both, [("DL",)])
    assert back.homes() == {Home(HEADER.code, NOW), Home(OTHER, BEFORE)}
