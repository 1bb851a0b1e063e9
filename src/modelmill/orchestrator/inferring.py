"""`data infer`: a schema from a sample file, printed or written, to be edited by a person."""

from __future__ import annotations

from pathlib import Path

from modelmill.data.inferring import Guessed, imports_of, infer_columns, schema_source
from modelmill.data.sources import read_table
from modelmill.errors import UsageError
from modelmill.outcomes import InferOutcome, Progress, no_progress
from modelmill.requests import InferRequest
from modelmill.settings import Settings
from modelmill.store.files import told


def infer(_: Settings, request: InferRequest, __: Progress = no_progress) -> InferOutcome:
    """Guess the columns of a sample."""
    if request.source is None or request.target is None:
        raise UsageError("a sample and its target are needed", next="modelmill data infer FILE --target COLUMN")
    frame = read_table(Path(request.source).resolve())
    by = tuple(name.strip() for name in (request.by or "").split(",") if name.strip())
    guessed = infer_columns(frame, target=request.target, by=by, time=request.time or "")
    source = f"{imports_of(guessed)}import modelmill as mm\n\n\n{schema_source(request.name, guessed)}\n"
    if request.out:
        write_new(Path(request.out), source)
    return InferOutcome(
        source=source,
        columns=len(guessed),
        rows=len(frame),
        out=request.out or "",
        notices=tuple(_notices(frame.columns, guessed)),
        next=f"write what the columns mean and their units, then  mm.Model(NAME, {request.name}, ...)",
    )


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet: what a person has edited is never overwritten."""
    with told(path):
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            raise UsageError(f"`{path}` is there already", next="another name, or move it away") from error


def _notices(names: list[str], guessed: list[Guessed]) -> list[str]:
    known = {one.column.name for one in guessed}
    return [f"column `{name}` has no value in the sample: left out" for name in names if name not in known]
