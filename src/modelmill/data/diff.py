"""What lies between two snapshots: their promises, their segments, their rows, and how each column is distributed."""

from __future__ import annotations

import msgspec
import polars as pl

from modelmill.data.snapshot import Segments, Snapshot
from modelmill.data.taking import load_rows, load_segments
from modelmill.model.schema import SchemaSpec
from modelmill.names import Segment
from modelmill.store.opening import Store


class ColumnDiff(msgspec.Struct, frozen=True, kw_only=True):
    """How one column is distributed in the rows of changed segments, before and after."""

    column: str
    null_share: tuple[float, float]
    mean: tuple[float | None, float | None] = (None, None)
    """None of a column that is no number."""
    sd: tuple[float | None, float | None] = (None, None)
    distance: float | None = None
    """The Kolmogorov-Smirnov statistic: the largest distance of the two distribution functions, 0 to 1; of numbers only."""
    new_values: tuple[str, ...] = ()
    """Texts that were not there before, five at most."""


class SnapshotDiff(msgspec.Struct, frozen=True, kw_only=True):
    """What lies between two snapshots."""

    before: str
    after: str
    rows: tuple[int, int]
    schema: tuple[str, ...] = ()
    """Columns that came, went or promise something else, a line each."""
    segments_new: int = 0
    segments_gone: int = 0
    segments_changed: int = 0
    segments_same: int = 0
    examples: tuple[Segment, ...] = ()
    """Of changed segments, at most three."""
    rows_added: int | None = None
    """Of segments that are in either; None where rows were not compared, or have other columns."""
    rows_removed: int | None = None
    rows_changed: int | None = None
    """Of those added, how many have the key, and the unique columns or the time, of one removed."""
    columns: tuple[ColumnDiff, ...] = ()


def diff_snapshots(store: Store, before: Snapshot, after: Snapshot, *, rows: bool = True) -> SnapshotDiff:
    """Compare two snapshots; segments whose digests are equal are not read. `rows` false leaves their content out."""
    some, others = load_segments(store, before), load_segments(store, after)
    old, new = (dict(zip(one.keys, one.digests, strict=True)) for one in (some, others))
    changed = [key for key in new.keys() & old.keys() if new[key] != old[key]]
    found = SnapshotDiff(
        before=before.label,
        after=after.label,
        rows=(before.manifest.rows, after.manifest.rows),
        schema=tuple(schema_differences(before.manifest.spec, after.manifest.spec)),
        segments_new=len(new.keys() - old.keys()),
        segments_gone=len(old.keys() - new.keys()),
        segments_changed=len(changed),
        segments_same=len(new.keys() & old.keys()) - len(changed),
        examples=tuple(sorted(changed)[:3]),
    )
    if not rows:
        return found
    removed = _rows_of(store, before, some, {key for key in old if old[key] != new.get(key)})
    added = _rows_of(store, after, others, {key for key in new if new[key] != old.get(key)})
    return _with_rows(found, removed, added, after)


def schema_differences(before: SchemaSpec, after: SchemaSpec) -> list[str]:
    """Return what two schemas promise differently, a line each."""
    old, new = ({column.name: column for column in spec.columns} for spec in (before, after))
    lines = [f"+ {name}   {new[name].role}   {new[name].rule()}" for name in new if name not in old]
    lines += [f"- {name}   {old[name].role}   {old[name].rule()}" for name in old if name not in new]
    for name in (name for name in new if name in old and new[name] != old[name]):
        one, other = (f"{column.role} {column.rule()}" for column in (old[name], new[name]))
        lines.append(f"~ {name}   {one} -> {other}" if one != other else f"~ {name}   described otherwise")
    return lines


def _rows_of(store: Store, snapshot: Snapshot, every: Segments, wanted: set[Segment]) -> pl.DataFrame:
    if not wanted:
        return pl.DataFrame()
    return load_rows(store, snapshot, every, wanted)[0]


def _with_rows(found: SnapshotDiff, before: pl.DataFrame, after: pl.DataFrame, snapshot: Snapshot) -> SnapshotDiff:
    """Add how many rows came and went, as multisets, and how columns are distributed."""
    if before.is_empty() or after.is_empty():
        return msgspec.structs.replace(found, rows_added=len(after), rows_removed=len(before), rows_changed=0)
    if before.columns != after.columns or before.dtypes != after.dtypes:
        return found
    names = before.columns
    counts = (
        pl.concat([before.with_columns(__by=-1), after.with_columns(__by=1)]).group_by(names).agg(pl.col("__by").sum())
    )
    added, removed = counts.filter(pl.col("__by") > 0), counts.filter(pl.col("__by") < 0)
    spec = snapshot.manifest.spec
    identity = [*snapshot.manifest.by, *(spec.unique or ([spec.time.name] if spec.time else []))]
    identity = list(dict.fromkeys(identity))
    both = (
        added.join(removed.select(identity).unique(), on=identity, how="semi", nulls_equal=True)
        if identity
        else added[:0]
    )
    hidden = {column.name for column in spec.columns if column.hidden}
    return msgspec.structs.replace(
        found,
        rows_added=int(added["__by"].sum()),
        rows_removed=-int(removed["__by"].sum()),
        rows_changed=len(both),
        columns=tuple(column_diff(before[name], after[name]) for name in names if name not in hidden),
    )


def column_diff(before: pl.Series, after: pl.Series) -> ColumnDiff:
    """Compare the values of a column."""
    shares = (before.null_count() / max(len(before), 1), after.null_count() / max(len(after), 1))
    if before.dtype == pl.String:
        values = after.drop_nulls().unique().sort()
        fresh = values.filter(~values.is_in(before.unique().implode()))
        return ColumnDiff(column=before.name, null_share=shares, new_values=tuple(fresh.head(5).to_list()))
    one, other = (series.drop_nulls().to_physical().cast(pl.Float64) for series in (before, after))
    is_number = before.dtype.is_numeric() or before.dtype == pl.Boolean
    return ColumnDiff(
        column=before.name,
        null_share=shares,
        mean=(_number(one.mean()), _number(other.mean())) if is_number else (None, None),
        sd=(_number(one.std()), _number(other.std())) if is_number else (None, None),
        distance=ks_distance(one, other),
    )


def ks_distance(one: pl.Series, other: pl.Series) -> float | None:
    """Return the two-sample Kolmogorov-Smirnov statistic, sup |F - G|; None where a sample is empty."""
    if one.is_empty() or other.is_empty():
        return None
    values = pl.concat([one, other]).unique().sort()
    cumulated = [sample.sort().search_sorted(values, side="right") / len(sample) for sample in (one, other)]
    return float((cumulated[0] - cumulated[1]).abs().max())  # type: ignore[arg-type]  # there is at least one value


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
