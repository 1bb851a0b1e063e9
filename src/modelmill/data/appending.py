"""Appending to a snapshot: new rows in files of their own, beside the files that are there, which nobody copies.

The files of a snapshot form layers, each sorted by segment. What is read is sorted as a whole, and every segment has the
digest that it would have after an import of all rows: what did not change is not built again. A layer that is not much larger
than the one on top of it is written together with that one, so that there are only about log2 of the rows of them, and each
row is copied about as often (the logarithmic method of Bentley and Saxe, "Decomposable Searching Problems", 1980).
"""

from __future__ import annotations

import io
from typing import NamedTuple

import polars as pl

from modelmill.data.contract import check
from modelmill.data.snapshot import FORMAT, FileEntry, Manifest, Snapshot, encode_segments
from modelmill.data.subjects import record_subjects
from modelmill.data.taking import (
    Inspect,
    Taken,
    index_segments,
    load_frame,
    load_segments,
    nothing_more,
    record_snapshot,
    sort_rows,
    write_files,
)
from modelmill.errors import ContractBroken
from modelmill.model.schema import SchemaSpec
from modelmill.store.opening import Store

_SHOWN = 3
_MUCH_LARGER = 2


class Appended(NamedTuple):
    """A snapshot with more rows than the one before."""

    taken: Taken
    rows: int
    """How many were added; 0 where all of them were there already."""
    repeated: int
    """How many of them are equal to a row that was there, column by column, and are kept twice."""
    bytes: int
    """How many were written for the rows."""


def append_rows(
    store: Store, base: Snapshot, frame: pl.DataFrame, source: str, *, inspect: Inspect = nothing_more
) -> Appended:
    """Make a snapshot of the rows of `base` and those of `frame`; a bad drop raises a `DataError` and changes nothing.

    Rows that are all there already add nothing: an append that was interrupted can be done again.
    """
    spec, by = base.manifest.spec, base.manifest.by
    new = sort_rows(check(spec, frame, source), spec, by)
    kept = load_frame(store, base)
    repeated = new.join(kept, on=new.columns, how="semi", nulls_equal=True).height
    if repeated == len(new):
        return Appended(Taken(base, load_segments(store, base), kept, new=False), 0, repeated, 0)
    _check_unique(spec, kept, new, source)
    ordered = sort_rows(pl.concat([kept, new]), spec, by)
    segments = index_segments(ordered, spec, by)
    notices = inspect(ordered, segments)
    files, layer = _lower_layers(store, base, new)
    written, subjects = write_files(store, spec, layer, by, 1 + max((file.layer for file in files), default=-1))
    (index,) = store.blobs.put([encode_segments(segments)])
    manifest = Manifest(FORMAT, base.manifest.dataset, spec, by, len(ordered), (*files, *written), index)
    (identity,) = store.blobs.put([manifest.encode()])
    with store.database.write() as c:
        snapshot, fresh = record_snapshot(c, identity, manifest, len(segments), source)
        record_subjects(c, subjects)
    return Appended(
        Taken(snapshot, segments, ordered, fresh, notices), len(new), repeated, sum(file.bytes for file in written)
    )


def _lower_layers(store: Store, base: Snapshot, new: pl.DataFrame) -> tuple[tuple[FileEntry, ...], pl.DataFrame]:
    """Return the files that stay as they are, and the rows of the new top layer: the new ones and those it takes in."""
    files, rows = list(base.manifest.files), new
    while files:
        top = [file for file in files if file.layer == files[-1].layer]
        if sum(file.rows for file in top) > _MUCH_LARGER * len(rows):
            break
        parts = [pl.read_parquet(io.BytesIO(store.blobs.get(file.digest))) for file in top]
        rows = sort_rows(pl.concat([*parts, rows]), base.manifest.spec, base.manifest.by)
        files = files[: -len(top)]
    return tuple(files), rows


def _check_unique(spec: SchemaSpec, kept: pl.DataFrame, new: pl.DataFrame, source: str) -> None:
    """Refuse new rows that repeat what the schema promises to be unique."""
    if not spec.unique:
        return
    names = list(spec.unique)
    again = new.with_row_index("__row").join(kept, on=names, how="semi", nulls_equal=True)
    if len(again):
        shown = "; ".join(", ".join(map(str, row)) for row in again.select(names).head(_SHOWN).iter_rows())
        hidden = any(spec.column(name).hidden for name in names)
        raise ContractBroken(
            f"{len(again)} of {len(new)} new rows repeat ({', '.join(names)}) of rows that are there",
            where=source,
            expected=f"unique=[{', '.join(names)}]",
            got="(their values are not shown)" if hidden else shown,
            next="append only new rows, or import all rows anew where some were corrected: modelmill data import FILE",
            safe="no snapshot was made; everything that is served is unchanged",
        )
