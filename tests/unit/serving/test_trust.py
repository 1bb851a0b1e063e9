"""What a node opens: only what this installation has signed, as what the signed map says that it is."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelmill.errors import AnswerInvalid, BlobBroken, ModelmillError
from modelmill.names import ModelName, digest_of
from modelmill.registry.fleet import Entry, FleetMap, sign
from modelmill.release.pointers import Pointer, Published
from modelmill.serving.applied import apply
from modelmill.serving.python import PythonRuntime
from modelmill.serving.served import ServedModel
from modelmill.store.blobs import blobs_of
from modelmill.store.packs import PackWriter

from .test_python import Released, row


class Bomb:
    """An object whose pickle writes a file where it is opened."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.place, "opened")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return Released(tmp_path_factory.mktemp("trust"))


def with_entry(released: Released, content: bytes, form: str, runtime: str) -> tuple[Pointer, Entry]:
    """Sign a map whose one entry has these bytes, and says of them what they are."""
    blobs = blobs_of(released.store)
    with PackWriter(blobs.scratch) as writer:
        place = writer.add(content)
        pack = blobs.put_file(writer.finish())
    entry = Entry(("A",), 1, form, runtime, pack, place.offset, place.length, digest_of(content))
    signed = sign(released.key, FleetMap.build(released.map.header, [entry]))
    return Pointer(1, blobs.put([signed.content])[0], signed.signature), entry


async def ask(released: Released, pointer: Pointer, entry: Entry) -> ModelmillError:
    """Ask a release through all that a node does, and return what it refuses."""
    model = ServedModel(released.store, blobs_of(released.store), pointer)
    try:
        with pytest.raises((AnswerInvalid, BlobBroken)) as caught:
            await model.answer_by(entry, row(2))
        return caught.value
    finally:
        await model.close()


@pytest.mark.parametrize("form", ["skops", "safetensors", "json", "joblib"])
def test_a_pickle_by_another_name_is_opened_by_nobody(released: Released, tmp_path: Path, form: str) -> None:
    bomb = tmp_path / "bomb"
    pointer, entry = with_entry(released, pickle.dumps(Bomb(bomb)), form, "python")
    assert f"format `{form}`" in asyncio.run(ask(released, pointer, entry)).what
    assert not bomb.exists()


@pytest.mark.parametrize("form", ["packed", "onnx"])
def test_a_pickle_where_arrays_or_a_graph_are_said_to_be_is_opened_by_nobody(
    released: Released, tmp_path: Path, form: str
) -> None:
    bomb = tmp_path / "bomb"
    pointer, entry = with_entry(released, pickle.dumps(Bomb(bomb)), form, form)
    asyncio.run(ask(released, pointer, entry))
    assert not bomb.exists()


def test_a_pickle_that_is_said_to_be_one_is_opened_in_the_child_alone(released: Released, tmp_path: Path) -> None:
    """The bomb does go off where it may: what the tests above show is not that it is a dud."""
    bomb = tmp_path / "bomb"
    pointer, entry = with_entry(released, pickle.dumps(Bomb(bomb)), "pickle", "python")

    async def answer() -> None:
        model = ServedModel(released.store, blobs_of(released.store), pointer)
        await model.answer_by(entry, row(2))
        await model.close()

    asyncio.run(answer())
    assert bomb.read_text() == "opened"


@pytest.mark.parametrize("place", [0, 7, -1])
def test_one_changed_bit_of_an_entry_and_no_byte_of_it_is_opened(
    released: Released, tmp_path: Path, place: int
) -> None:
    bomb = tmp_path / "bomb"
    content = pickle.dumps(Bomb(bomb))
    pointer, entry = with_entry(released, content, "pickle", "python")
    changed = bytearray(content)
    changed[place] ^= 1
    file = blobs_of(released.store).path_of(entry.pack)
    file.chmod(0o600)
    whole = file.read_bytes()
    file.write_bytes(whole.replace(content, bytes(changed)))
    error = asyncio.run(ask(released, pointer, entry))
    assert isinstance(error, BlobBroken)
    assert not bomb.exists()


def test_the_map_of_another_model_is_not_served_as_this_one(released: Released) -> None:
    async def publish() -> None:
        published = Published("dev", 1, {ModelName("prices"): released.pointer})
        applied = await apply(released.store, published, None)
        assert not applied.models
        assert "is the map of `sales`" in applied.unopened[ModelName("prices")]

    asyncio.run(publish())


@pytest.mark.parametrize("what", ["map", "signature"])
def test_one_changed_bit_of_a_map_or_its_signature_starts_no_child(released: Released, what: str) -> None:
    signature, content = released.pointer.signature, blobs_of(released.store).get(released.pointer.map)
    if what == "signature":
        signature = bytes([signature[0] ^ 1, *signature[1:]])
    else:
        content = content[:-1] + bytes([content[-1] ^ 1])
    pointer = Pointer(1, blobs_of(released.store).put([content])[0], signature)

    async def start() -> None:
        with pytest.raises(ModelmillError) as caught:
            ServedModel(released.store, blobs_of(released.store), pointer)
        assert caught.value.code == "MM506"
        runtime = PythonRuntime(released.store, pointer, released.code)
        with pytest.raises(ModelmillError, match="cannot be opened"):  # the child looks for itself
            await runtime.start()
        await runtime.close()

    asyncio.run(start())
