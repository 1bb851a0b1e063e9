"""Labels as a dataset: what was true, as it came to be known, a file an import.

An import is checked whole before anything of it is kept, and kept as it came: which answer a label belongs to is found
anew at each look (`data.joining`), so that a label may come before the answer's journal is settled, a week late, or twice.
The same content is kept once, whatever the order of its rows and wherever it was read from.
"""

from __future__ import annotations

import io
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import msgspec
import polars as pl
from sqlalchemy import Row, select

from modelmill.data.contract import check
from modelmill.data.tables import labels
from modelmill.errors import LabelsContradict, UsageError
from modelmill.model.columns import Column
from modelmill.model.schema import SchemaSpec
from modelmill.names import Digest, ModelName, digest_of
from modelmill.store.dialects import upsert
from modelmill.store.opening import Store
from modelmill.store.tables import now

On = Literal["request_id", "keys,time"]
"""By what labels find their answers: the request's id, or the key columns and a moment."""

REQUEST, ROW, AT, LABEL, KNOWN = "request_id", "row", "at", "label", "known_at"
"""The columns of kept labels, beside the keys: the row of the request, the moment, the value, when it came to be known."""
_SHOWN = 5


class Labels(NamedTuple):
    """Labels of one import, checked: the columns that find the answer, then `LABEL`, and `KNOWN` where the source had it."""

    frame: pl.DataFrame
    empty: int
    """Rows whose label is null, as the target may be: they say nothing, and are left out."""
    repeated: int
    """Rows that said what another row had said."""


class LabelFile(NamedTuple):
    """One import, as it is recorded."""

    number: int
    model: ModelName
    on: On
    within: timedelta
    """How long before a label's moment its answer may have been asked for."""
    file: Digest
    rows: int
    bytes: int
    source: str
    imported_at: datetime
    outcome: str
    """What was measured; empty for the target itself."""


# ------------------------------------------------------------------ checking


def outcome_spec(spec: SchemaSpec, outcome: str) -> SchemaSpec:
    """Return a schema whose target is an outcome that was measured of each answer: any number."""
    if outcome in {column.name for column in spec.columns}:
        raise UsageError(
            f"`{outcome}` is a column of `{spec.name}`",
            expected="the name of something that was measured, such as revenue",
            next="modelmill labels import FILE      (for the target itself)" if outcome == spec.target.name else "",
        )
    others = tuple(column for column in spec.columns if column.role != "target")
    return msgspec.structs.replace(spec, columns=(*others, Column(outcome, "target", "float")))


def check_labels(spec: SchemaSpec, on: On, frame: pl.DataFrame, source: str) -> Labels:
    """Return what a table says about answers, typed as the target is declared; what breaks a promise is told with its row.

    Raises what `contract.check` does, and `LabelsContradict` where two rows say different things of one answer.
    """
    asked = _contract(spec, on, frame)
    typed = check(asked, frame, source).rename({spec.target.name: LABEL} | _renamed(spec, on))
    said = typed.drop_nulls(LABEL)
    identity = [name for name in said.columns if name != LABEL]
    unique = said.unique().sort(said.columns, nulls_last=True)
    twice = unique.filter(unique.select(identity).is_duplicated())
    if len(twice):
        raise LabelsContradict(
            f"two rows say different things of one answer: {len(twice):,} rows",
            where=source,
            got=_told(twice.head(2), spec.target.hidden),
            next=f"keep one of them, or add a column `{KNOWN}`: what came to be known later is right",
            safe="nothing was imported",
        )
    return Labels(unique, len(typed) - len(said), len(said) - len(unique))


def _contract(spec: SchemaSpec, on: On, frame: pl.DataFrame) -> SchemaSpec:
    """Return what a table of labels has to be."""
    known = [Column(KNOWN, "feature", "datetime")] if KNOWN in frame.columns else []
    if on == "request_id":
        row = [Column(ROW, "feature", "int", ge=0)] if ROW in frame.columns else []
        found = [Column(REQUEST, "key", "str"), *row]
    else:
        found = [*spec.keys, Column(moment_name(spec), "feature", "datetime")]
    return SchemaSpec(f"labels of {spec.name}", "", (*found, spec.target, *known))


def _renamed(spec: SchemaSpec, on: On) -> dict[str, str]:
    return {moment_name(spec): AT} if on == "keys,time" else {}


def moment_name(spec: SchemaSpec) -> str:
    """Return the column that holds a label's moment: the schema's time, else the moment the answer was asked for."""
    return spec.time.name if spec.time else "asked_at"


def _told(rows: pl.DataFrame, hidden: bool) -> str:
    shown = rows.drop(LABEL) if hidden else rows
    return "; ".join(" ".join(f"{name}={value}" for name, value in row.items()) for row in shown.to_dicts())


# ------------------------------------------------------------------ keeping


def keep_labels(  # noqa: PLR0913 - an import is all of these
    store: Store, model: ModelName, on: On, within: timedelta, frame: pl.DataFrame, source: str, *, outcome: str = ""
) -> tuple[LabelFile, bool]:
    """Keep checked labels, or measured outcomes; return the import that holds them, and whether it is a new one."""
    of = f" of {outcome}" if outcome else ""
    content = digest_of(f"{on} {frame.schema}{of}\n".encode() + frame.write_csv(float_precision=None).encode())
    buffer = io.BytesIO()
    # No statistics: a column's minimum would keep an erased value for ever.
    frame.write_parquet(buffer, compression="zstd", statistics=False)
    (file,) = store.blobs.put([buffer.getvalue()])
    row = {
        "model": model,
        "content": content,
        "join_on": on,
        "within_s": within.total_seconds(),
        "file": file,
        "rows": len(frame),
        "bytes": buffer.tell(),
        "source": source,
        "imported_at": now(),
        "outcome": outcome,
    }
    with store.database.write() as c:
        new = bool(c.execute(upsert(c, labels).values(row).on_conflict_do_nothing()).rowcount)
        same = (labels.c.model == model) & (labels.c.content == content)
        return _as_file(c.execute(select(labels).where(same)).one()), new


def list_label_files(store: Store, model: ModelName | None = None, outcome: str = "") -> list[LabelFile]:
    """Return the imports of labels, or of an outcome, the oldest first."""
    query = select(labels).where(labels.c.outcome == outcome).order_by(labels.c.id)
    if model is not None:
        query = query.where(labels.c.model == model)
    with store.database.read() as c:
        return [_as_file(row) for row in c.execute(query)]


def read_labels(store: Store, file: LabelFile) -> pl.DataFrame:
    """Return the rows of an import, each with when it came to be known: at its import, where the source did not say."""
    frame = pl.read_parquet(io.BytesIO(store.blobs.get(file.file)))
    imported = pl.lit(file.imported_at.replace(tzinfo=None), dtype=pl.Datetime("us"))
    known = pl.col(KNOWN) if KNOWN in frame.columns else imported
    return frame.with_columns(known.alias(KNOWN))


def _as_file(row: Row[Any]) -> LabelFile:
    within = timedelta(seconds=row.within_s)
    model = ModelName(row.model)
    where = (row.file, row.rows, row.bytes, row.source, row.imported_at)
    return LabelFile(row.id, model, row.join_on, within, *where, row.outcome)
