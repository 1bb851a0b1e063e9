"""Text for labels: what became of an import, how many answers have one, and how good the answers were."""

from __future__ import annotations

from collections.abc import Iterator

from modelmill import outcomes as o
from modelmill.cli.layout import count, line, number, seconds, table

_DAY = 86_400.0
_HOUR = 3_600.0


def render_labels(labels: o.LabelsOutcome) -> Iterator[str]:
    """Yield what was imported, then each environment's answers."""
    if labels.imported is not None:
        yield _imported(labels.imported, labels.model)
    else:
        yield line("labels", labels.model, count(labels.imports, "import") if labels.imports else "none yet")
    outcome = labels.imported.outcome if labels.imported else ""
    for facts in labels.environments:
        yield from _environment(facts, outcome)
    if not labels.environments:
        yield line("quality", "unknown: nothing was logged of its answers")
    if labels.out:
        yield line("written", labels.out)


def _imported(done: o.LabelImport, model: str) -> str:
    within = f"within {duration(done.within_s)}" if done.within_s else ""
    return line(
        "labels",
        model,
        done.source,
        f"{done.rows:,} {done.outcome} by {done.on}".replace("  ", " "),
        within,
        f"{done.empty:,} empty" if done.empty else "",
        f"{done.repeated:,} repeated" if done.repeated else "",
        "" if done.new else "as before: nothing has changed",
    )


def _environment(facts: o.LabelledFacts, outcome: str) -> Iterator[str]:
    share = f"{100 * facts.labelled / facts.answers:.3g} %"
    others = [
        f"{value:,} {word}"
        for value, word in (
            (facts.parked, "parked"),
            (facts.ambiguous, "ambiguous"),
            (facts.corrected, "corrected"),
            (facts.repeated, "repeated"),
        )
        if value
    ]
    name = facts.environment or "(older)"
    yield line(name, f"{facts.labelled:,} of {facts.answers:,} answers have {outcome or 'a label'}", share, *others)
    if facts.delay_s is not None and facts.delay_p90_s is not None:
        yield line("delay", f"half within {duration(facts.delay_s)}", f"9 of 10 within {duration(facts.delay_p90_s)}")
    if facts.labelled:
        rows = [
            (age.asked, f"{age.answers:,}", f"{age.labelled:,}", f"{100 * age.labelled / age.answers:.3g} %")
            for age in facts.ages
        ]
        yield from table(("asked", "answers", "labelled", "share"), rows)
    if outcome:
        return
    if facts.labelled:
        yield from table(
            ("release", "version", "labelled", "metric", "value"), [_quality(one) for one in facts.releases]
        )
    yield line("quality", _verdict(facts.champion))
    if facts.challenger is not None:
        yield line("canary", _verdict(facts.challenger))


def _quality(one: o.ReleaseQuality) -> tuple[str, ...]:
    return f"r{one.release}" if one.release else "-", str(one.version), f"{one.rows:,}", one.metric, number(one.value)


def _verdict(found: o.ChampionVerdict) -> str:
    if found.verdict == "unknown":
        return f"unknown: {found.why}"
    told = (
        f"r{found.release} is {found.verdict}"
        if found.verdict != "no clear difference"
        else f"r{found.release}: {found.verdict}"
    )
    figures = f"{found.measure} {number(found.own)} beside {number(found.other)} of r{found.before}"
    bounds = f"difference {number(found.low)} to {number(found.high)}"
    return f"{told}   {figures} on the same {found.rows:,} rows   {bounds}"


def duration(value: float) -> str:
    """Return a time as people say it who wait for labels: ``40 s``, ``2.5 h``, ``7 days``."""
    if value < 2 * _HOUR:
        return seconds(max(0.0, value))
    return f"{value / _HOUR:.1f} h" if value < 2 * _DAY else f"{value / _DAY:.1f} days"
