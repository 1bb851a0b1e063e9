"""Logged predictions as a dataset: each record once, whatever happens on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from sqlalchemy import insert

import modelmill as mm
from modelmill.data import predictions
from modelmill.data.journal import Answerer, Journal, Record, list_journals
from modelmill.data.logged import Shape, frame_of
from modelmill.data.predictions import count_unsettled, journal_folder, list_files, read_predictions, settle
from modelmill.data.subjects import files_naming
from modelmill.data.tables import journals as recorded
from modelmill.errors import StoreUnavailable
from modelmill.model.schema import schema_of
from modelmill.names import ModelName
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store

SALES = ModelName("sales")


class Sale(mm.Schema):
    """Every kind of column."""

    store: str = mm.key()
    number: int = mm.key()
    at: datetime = mm.time()
    person: str = mm.subject()
    size: float = mm.col(nullable=True)
    rooms: int = mm.col()
    sold: bool = mm.col()
    y: float = mm.target()


SHAPE = Shape(schema_of(Sale), ("store", "number"))
CLASSES = Shape(schema_of(Sale), ("store", "number"), ("no", "yes"))
WHO = Answerer("sales", 1, "north,1", 2, "")
LONG = 10_000
ROW = ["north", 1, "2025-01-01T09:00:00", 2.5, 3, True, "ann"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(Settings(root=tmp_path)) as opened:
        yield opened


def shape_of(model: ModelName, run: int) -> Shape:
    return SHAPE


class Worker:
    """Writes journals as a worker does."""

    def __init__(self, store: Store, origin: str = "w") -> None:
        self.folder, self.origin, self.files = journal_folder(store), origin, 0

    def write(self, *records: Record) -> Path:
        """Write one whole journal."""
        self.files += 1
        journal = Journal(self.folder, self.origin, self.files)
        journal.write(b"".join(map(msgspec.msgpack.encode, records)), 0, len(records))
        journal.close()
        return journal.path


def asked(number: int, inputs: Any = (ROW,), answers: Any = (7.0,), **changes: Any) -> Record:
    at = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp() + number
    about: dict[str, Any] = {"answerer": WHO, "id": number, "at": at, "seconds": 0.002} | changes
    return Record(**about, inputs=inputs, answers=answers)


def ids(store: Store, **options: Any) -> list[str]:
    return list(read_predictions(store, shape_of, SALES, **options)["request_id"])


# ---------------------------------------------------------------- rows


def test_values_are_typed_as_the_schema_says(store: Store) -> None:
    Worker(store).write(asked(31))
    (row,) = read_predictions(store, shape_of, SALES).to_dicts()
    assert row == {
        "request_id": "w-1f",
        "row": 0,
        "asked_at": datetime(2026, 1, 1, 12, 0, 31),  # noqa: DTZ001 - UTC, as all times of rows
        "latency_ms": 2.0,
        "environment": "",
        "release": 0,
        "run": 1,
        "segment": "north,1",
        "version": 2,
        "pooled_because": "",
        "inputs": {
            "store": "north",
            "number": 1,
            "at": datetime(2025, 1, 1, 9),  # noqa: DTZ001
            "size": 2.5,
            "rooms": 3,
            "sold": True,
            "person": "ann",
        },
        "answer": 7.0,
    }


def test_a_matrix_is_told_as_named_fields_are(store: Store) -> None:
    x = np.array([[2.5, 3, 1], [math.nan, 4, 0]])
    Worker(store).write(asked(1, x.tobytes(), np.array([7.0, 8.0]).tobytes(), rows=[0, 2]))
    first, second = read_predictions(store, shape_of, SALES).to_dicts()
    assert first["inputs"] == dict(zip(first["inputs"], ["north", 1, None, 2.5, 3, True, None], strict=True))
    assert (second["inputs"]["size"], second["inputs"]["sold"]) == (None, False)
    assert (first["row"], second["row"], second["answer"]) == (0, 2, 8.0)


def test_a_class_is_told_with_its_probabilities(store: Store) -> None:
    Worker(store).write(asked(1, [ROW, ROW], [0.25, 0.75, 0.9, 0.1]))
    frame = read_predictions(store, lambda *_: CLASSES, SALES)
    assert (frame["answer"].to_list(), frame["probabilities"].to_list()) == (["yes", "no"], [[0.25, 0.75], [0.9, 0.1]])


# ---------------------------------------------------------------- settling


def test_a_record_is_there_once_before_and_after_settling(store: Store) -> None:
    worker = Worker(store)
    worker.write(asked(1), asked(2))
    worker.write(asked(3))
    assert ids(store) == ["w-1", "w-2", "w-3"]
    assert settle(store, shape_of, LONG) == (2, 3, 0)
    assert list_journals(journal_folder(store)) == []
    worker.write(asked(4))
    assert ids(store) == ["w-1", "w-2", "w-3", "w-4"]
    assert ids(store, last=2) == ["w-3", "w-4"]
    assert count_unsettled(store) == {"sales": 1}


def test_a_journal_that_is_written_to_is_read_but_left(store: Store) -> None:
    journal = Journal(journal_folder(store), "w", 1)
    journal.write(msgspec.msgpack.encode(asked(1)), 0, 1)
    assert settle(store, shape_of, LONG).journals == 0
    assert ids(store) == ["w-1"]
    journal.close()
    assert settle(store, shape_of, LONG).journals == 1
    assert ids(store) == ["w-1"]


def test_small_files_become_one(store: Store) -> None:
    worker = Worker(store)
    for number in range(1, 5):
        worker.write(asked(number))
        settle(store, shape_of, LONG)
    (file,) = list_files(store)
    assert file.rows == 4
    assert {file.digest} <= set(store.blobs.digests())
    assert len(set(store.blobs.digests())) == 1


def test_a_crash_after_the_rows_were_recorded_doubles_nothing(store: Store) -> None:
    path = Worker(store).write(asked(1))
    content = path.read_bytes()
    settle(store, shape_of, LONG)
    # As a crash leaves it: the file is recorded, its journal is still there.
    path.write_bytes(content)
    with store.database.write() as c:
        c.execute(insert(recorded), [{"name": path.name}])
    assert ids(store) == ["w-1"]
    assert settle(store, shape_of, LONG) == (0, 0, 0)
    assert not path.exists()
    assert ids(store) == ["w-1"]


def test_a_crash_before_the_rows_were_recorded_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    Worker(store).write(asked(1))
    with monkeypatch.context() as patched:
        patched.setattr(predictions, "_row_of", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            settle(store, shape_of, LONG)
    assert ids(store) == ["w-1"]
    assert settle(store, shape_of, LONG) == (1, 1, 0)
    assert ids(store) == ["w-1"]


def test_the_damaged_end_of_a_journal_does_not_stand_in_the_way_of_the_next(store: Store) -> None:
    worker = Worker(store)
    path = worker.write(asked(1), asked(2))
    path.write_bytes(path.read_bytes()[:-3])
    worker.write(asked(3))
    assert settle(store, shape_of, LONG).rows == 1
    assert ids(store) == ["w-3"]


def test_old_files_are_removed(store: Store) -> None:
    worker = Worker(store)
    worker.write(asked(1, at=(datetime.now(UTC) - timedelta(days=40)).timestamp()))
    assert settle(store, shape_of, 60).removed == 0
    assert settle(store, shape_of, 30).removed == 1
    assert (list_files(store), list(store.blobs.digests())) == ([], [])
    assert read_predictions(store, shape_of, SALES).is_empty()


def test_people_are_found_in_what_was_logged(store: Store) -> None:
    Worker(store).write(asked(1))
    settle(store, shape_of, LONG)
    (file,) = list_files(store)
    assert files_naming(store, "ann") == [file.digest]
    Worker(store).write(asked(2, [[*ROW[:-1], "bob"]]))
    settle(store, shape_of, LONG)  # taken up into one file
    (file,) = list_files(store)
    assert files_naming(store, "ann") == files_naming(store, "bob") == [file.digest]


def test_a_file_has_checksums_and_no_statistics(store: Store) -> None:
    Worker(store).write(asked(1))
    settle(store, shape_of, LONG)
    path = store.blobs.path_of(list_files(store)[0].digest)
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    assert not column.is_stats_set
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start + column.total_compressed_size - 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"(?i)crc"):
        pq.read_table(path, page_checksum_verification=True)


def test_rows_of_several_schemas_are_read_together(store: Store) -> None:
    class Later(mm.Schema):
        """With another column."""

        store: str = mm.key()
        number: int = mm.key()
        height: float = mm.col()
        y: float = mm.target()

    shapes = {1: SHAPE, 2: Shape(schema_of(Later), ("store", "number"))}
    later = asked(2, [["north", 1, 9.5]], answerer=WHO._replace(run=2))
    Worker(store).write(asked(1), later)
    settle(store, lambda _, run: shapes[run], LONG)
    first, second = read_predictions(store, lambda _, run: shapes[run], SALES)["inputs"].to_list()
    assert (first["rooms"], first["height"], second["rooms"], second["height"]) == (3, None, None, 9.5)


def test_a_model_is_not_anothers(store: Store) -> None:
    Worker(store).write(asked(1), asked(2, answerer=WHO._replace(model="other")))
    assert ids(store) == ["w-1"]
    settle(store, shape_of, LONG)
    assert ids(store) == ["w-1"]
    assert {file.model for file in list_files(store)} == {"sales", "other"}


def test_a_folder_that_is_gone_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Worker(store).write(asked(1))
    monkeypatch.setattr(predictions, "list_journals", lambda _: [path.with_name("gone.journal")])
    with pytest.raises(StoreUnavailable):
        settle(store, shape_of, LONG)


def test_no_rows_are_an_empty_frame(store: Store) -> None:
    journal_folder(store).mkdir()
    assert isinstance(read_predictions(store, shape_of, SALES), pl.DataFrame)


def test_files_of_before_environments_were_written_down_are_read_and_taken_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_before(shape: Shape, records: Any) -> pl.DataFrame:
        return frame_of(shape, records).drop("environment", "release")

    worker = Worker(store)
    with monkeypatch.context() as patched:
        patched.setattr(predictions, "frame_of", of_before)
        worker.write(asked(1))
        settle(store, shape_of, LONG)
    old = read_predictions(store, shape_of, SALES)
    worker.write(asked(2, answerer=WHO._replace(environment="prod", release=3)))
    both = read_predictions(store, shape_of, SALES)
    settle(store, shape_of, LONG)
    assert len(list_files(store)) == 1
    settled = read_predictions(store, shape_of, SALES)
    assert old.select("environment", "release").rows() == [("", 0)]
    for found in (both, settled):
        assert found.select("environment", "release").rows() == [("", 0), ("prod", 3)]
        assert found.schema == old.schema
