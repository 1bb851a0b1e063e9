"""What was proven, as text: reproductions, differences, audits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modelmill import outcomes as o
from modelmill.cli.layout import line, lines, number, seconds, table


def render_diff(diff: o.DiffOutcome) -> Iterator[str]:
    """Yield which change it is, then what differs, in the order code, packages, parameters, data, metrics, answers."""
    differs = f"differs in {' and '.join(diff.differs)}" if diff.differs else ""
    yield line("diff", f"{diff.before} -> {diff.after}", diff.change, differs)
    if diff.commits:
        yield line("commits", diff.commits)
    yield from lines("code", diff.code)
    yield from lines("lock", diff.lock)
    yield from lines("host", diff.host)
    yield from lines("model", diff.declared)
    if diff.data is not None:
        yield from _data_diff(diff.data)
    if diff.kind == "versions" and not diff.segment:
        numbers = [
            ("refitted", diff.segments_refitted),
            ("same", diff.segments_same),
            ("new", diff.segments_new),
            ("gone", diff.segments_gone),
        ]
        yield line("segments", *(f"{many:,} {name}" for name, many in numbers if many), *diff.answered)
    yield from lines("refused", diff.refused)
    for metric in diff.metrics:
        moved = f"{number(metric.before)} -> {number(metric.after)}"
        counts = f"{metric.better:,} better, {metric.worse:,} worse of {metric.segments:,}, each on its own test rows"
        yield line(metric.name, moved, counts if metric.segments > 1 else "")
        examples = [f"{one.segment} {number(one.before)} -> {number(one.after)}" for one in metric.most]
        yield from lines("", examples if metric.segments > 1 and metric is diff.metrics[0] else ())
    if diff.answers:
        yield line("answers", *_answers_diff(diff.answers))


def _answers_diff(found: o.AnswersDiff) -> list[str]:
    mean = f"mean {number(found.mean[0])} -> {number(found.mean[1])}" if found.mean else ""
    share = f"{found.moved:,} of {found.rows:,} {found.source} moved"
    return [
        share,
        mean,
        f"by {number(found.median)} in the middle, {number(found.p95)} at 95 %, {number(found.largest)} at most",
    ]


def _data_diff(found: Any) -> Iterator[str]:
    before, after = found.rows
    yield line("data", f"{found.before} -> {found.after}", f"{before:,} -> {after:,} rows")
    yield from lines("schema", found.schema)
    segments = [(name, getattr(found, f"segments_{name}")) for name in ("new", "gone", "changed", "same")]
    yield line("segments", *(f"{many:,} {name}" for name, many in segments if many))
    if found.rows_added is not None:
        changed = f"{found.rows_changed:,} of them changed" if found.rows_changed else ""
        yield line("rows", f"{found.rows_added:,} added", f"{found.rows_removed:,} removed", changed)
    header = ["column", "missing", "mean", "sd", "distance", "new values"]
    yield from table(header, [_column_diff(column) for column in found.columns])


def _column_diff(column: Any) -> list[str]:
    def pair(values: Any, form: str) -> str:
        return "" if values[0] is None or values[1] is None else f"{values[0]:{form}} -> {values[1]:{form}}"

    distance = "" if column.distance is None else f"{column.distance:.3f}"
    told = (pair(column.null_share, ".1%"), pair(column.mean, ".4g"), pair(column.sd, ".4g"), distance)
    return [column.column, *told, ", ".join(column.new_values)]


_MARKS = {"automatic": "●", "by hand": "◐", "stale": "!", "empty": "○"}
_CELL = 27


def render_audit(found: o.AuditOutcome) -> Iterator[str]:
    """Yield one model's cells, row by row, and what the next level lacks; of several, a line each."""
    if len(found.audits) > 1:
        yield from table(
            ["model", "version", "level", "blocked by"],
            [[one.model, str(one.version), str(one.level), (one.blocked_by or ("",))[0]] for one in found.audits],
        )
        return
    (one,) = found.audits
    rows = list(dict.fromkeys(cell.row for cell in one.cells))
    yield line("audit", f"{one.model} {one.version}", f"rules {found.rules}")
    yield f"{'':<10}" + "".join(f"{name:<{_CELL}}" for name in ("code", "data", "model")).rstrip()
    for row in rows:
        cells = [cell for cell in one.cells if cell.row == row]
        yield f"{row:<10}" + "".join(f"{_cell_text(cell):<{_CELL}}" for cell in cells).rstrip()
    yield "          ● automatic   ◐ by hand   ! stale   ○ empty"
    yield line(
        "level",
        f"{one.level} of 4",
        *([f"was {one.level_before}"] if one.level_before not in (None, one.level) else []),
        *([f"by rules {one.rules_before} then"] if one.rules_before not in (None, found.rules) else []),
    )
    yield from lines("emptied", one.emptied)
    yield from lines(f"level {one.level + 1}", one.blocked_by)


def _cell_text(cell: Any) -> str:
    proof = cell.why or (cell.evidence[-1].partition(": ")[2] if cell.evidence else "")
    return f"{_MARKS[cell.state]} {proof}"[: _CELL - 2]


def render_reproduce(found: o.ReproduceOutcome) -> Iterator[str]:
    """Yield the verdict first, then what differs, and why."""
    words = f"{found.verdict} WITHIN {found.tolerance:g}" if found.verdict == "EQUAL" else found.verdict
    numbers = [
        (found.identical, "identical"),
        (found.equal, "equal"),
        (found.different, "different"),
        (found.failed, "failed"),
    ]
    counts = [f"{many:,}/{found.segments:,} {what}" for many, what in numbers if many]
    made = f"made in {seconds(found.environment_s)}" if found.environment_s else ""
    yield line("verdict", words, *counts, seconds(found.seconds))
    yield line("version", found.target, found.environment, made)
    for one in found.worst:
        size = "another shape" if one.largest is None else f"by {one.largest:.2g}"
        told = one.text if one.verdict == "failed" else f"{one.array} differs, {size}"
        yield line(one.verdict, one.segment, told)
    if found.cause:
        yield line("cause", found.cause.cause, *found.cause.lines)
    yield from lines("differs", found.differs)
    if found.not_kept:
        yield line("not kept", found.not_kept)
    if found.earlier:
        yield line("beside", f"{found.earlier:,} segments of it were built by earlier runs")
