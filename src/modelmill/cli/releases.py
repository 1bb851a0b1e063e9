"""Text for plans and releases: six blocks, always in the same order, of which the exceptions are listed."""

from __future__ import annotations

from collections.abc import Iterator

from modelmill import outcomes as o
from modelmill.cli.layout import count, line, lines, moment, number, seconds, table

_MARKS = {True: "ok", False: "no", None: "not known"}


def render_plan(plan: o.PlanOutcome) -> Iterator[str]:
    """Yield what changes and why, what was checked, what it costs, where, how and how it is taken back."""
    before = f"r{plan.before}" if plan.before else "nothing"
    yield line("plan", plan.id, f"{plan.model} in {plan.environment}: {before} -> version {plan.version}")
    if plan.nothing:
        yield line("", f"{plan.environment} serves version {plan.version} already")
        return
    yield from _what(plan)
    yield from _models(plan)
    for check in plan.checks:
        needed = "required here" if check.floor in plan.unmet else ""
        yield line(
            "checks" if check is plan.checks[0] else "", f"{check.floor}: {_MARKS[check.ok]}", check.text, needed
        )
    if "canary" in plan.unmet:
        yield line("", "canary: no", "the model declares none", "required here")
    yield line("", "rehearsal", plan.rehearsed or "done by `deploy`, before anything is moved")
    yield line("cost", "nothing is built", f"{number(plan.load_mb, 3)} MB to map")
    for text in plan.environments:
        yield line("", text)
    yield line("where", plan.url, count(plan.workers, "worker"), "" if plan.runs else "no node runs there now")
    if plan.unseen:
        yield line("", f"declared, and not seen from here: {', '.join(plan.unseen)}")
    yield line("how", *_how(plan))
    yield line("undo", plan.undo or "there is nothing to go back to yet")
    if plan.hold:
        yield line("on hold", plan.hold)
    if plan.taking:
        yield line("waits", f"{plan.taking} takes traffic beside r{plan.before}: modelmill status")


def _what(plan: o.PlanOutcome) -> Iterator[str]:
    labels = ["what"]
    for name, texts in plan.what.items():
        for text in texts:
            yield line(labels.pop() if labels else "", f"{name}: {text}")
    yield line(labels.pop() if labels else "", f"kind: {plan.kind}")


def _models(plan: o.PlanOutcome) -> Iterator[str]:
    numbers = [("change", len(plan.changed)), ("new", plan.new), ("gone", plan.gone), ("stay", plan.same)]
    many = [text for text in plan.changed if text.startswith("+")]
    if many:  # folded: the last line says how many more there are
        numbers[0] = ("change", len(plan.changed) - 1 + int(many[0][1:].split()[0].replace(",", "")))
    yield line("models", *(f"{number_:,} {name}" for name, number_ in numbers if number_))
    yield from lines("", [", ".join(plan.changed)] if plan.changed else [])
    if plan.pooled_changes:
        yield line("", "the pooled model changes, too")


def render_change(plan: o.PlanOutcome) -> Iterator[str]:
    """Yield what a plan changes, as one line; nothing where it changes nothing."""
    if not plan.nothing:
        numbers = [("change", len(plan.changed)), ("new", plan.new), ("gone", plan.gone), ("stay", plan.same)]
        yield line("plan", plan.id, *(f"{number_:,} {name}" for name, number_ in numbers if number_), *_how(plan)[:1])


def _how(plan: o.PlanOutcome) -> list[str]:
    if not plan.steps:
        return ["at once"]
    stops = f"stops by itself: {', '.join(plan.abort)}"
    return [f"canary of {plan.of}: {' -> '.join(plan.steps)}", f"{seconds(plan.hold_s)} each", stops]


def render_deploy(deploy: o.DeployOutcome) -> Iterator[str]:
    """Yield what is current now."""
    plan = deploy.plan
    if deploy.canary is not None:
        yield from render_canary(deploy.canary)
        return
    if deploy.rehearsed:
        yield line("rehearsal", deploy.rehearsed)
    state = "" if deploy.moved else "as before"
    confirmed = f"confirmed by {count(deploy.confirmed, 'worker')}" if deploy.confirmed else "no node runs there now"
    yield line(
        plan.environment, f"r{deploy.release} = version {plan.version}", state, confirmed, seconds(deploy.seconds)
    )


def render_canary(canary: o.CanaryFacts) -> Iterator[str]:
    """Yield how far a canary has come, and what is known of each of its conditions."""
    name = f"{canary.model} in {canary.environment}: r{canary.release} beside r{canary.before}"
    if canary.outcome and canary.state == "running":
        yield line("a/b", name, f"{canary.steps[0]} of entities", canary.outcome, f"{canary.asked:,} requests")
    elif canary.state == "running":
        steps = " -> ".join(f"[{text}]" if place == canary.step else text for place, text in enumerate(canary.steps))
        of = count(canary.exposed, "segment") if canary.of == "segments" else "requests"
        of = "copies: nobody sees its answers" if canary.steps[canary.step] == "shadow" else of
        held = f"{seconds(canary.step_s)} of {seconds(canary.hold_s)}"
        yield line("canary", name, steps, of, held, f"{canary.asked:,} requests")
    else:
        yield line("canary", name, "is current" if canary.state == "done" else "was taken back", canary.why)
    yield from lines("", canary.texts if canary.state == "running" else ())
    if canary.copies is not None:
        yield line("", *_compared(canary.copies))


def render_shadow(shadow: o.ShadowOutcome) -> Iterator[str]:
    """Yield what answers copies, and how far its answers are from those that were given."""
    if not shadow.shadows:
        yield line("shadow", f"nothing answers copies of {shadow.model} in {shadow.environment}")
    for one in shadow.shadows:
        yield from render_copies(one)
    if shadow.done:
        yield line(shadow.environment, _told(shadow.confirmed), seconds(shadow.seconds))


def render_copies(facts: o.ShadowFacts) -> Iterator[str]:
    """Yield what one shadow's copies came to, and the segments that are worst."""
    name = f"{facts.model} in {facts.environment}: r{facts.release} = version {facts.version}"
    since = f"ended {moment(facts.ended_at)}" if facts.ended_at else f"since {moment(facts.began_at)}"
    yield line("shadow", name, f"{100 * facts.share:g}% of requests", since)
    yield line("", *_compared(facts))
    rows = [
        (
            one.segment,
            f"{one.copies:,}",
            f"{one.failed:,}",
            f"{one.equal:,}",
            *map(_far, (one.mean_difference, one.largest_difference)),
        )
        for one in facts.apart
    ]
    if rows:
        yield from table(("segment", "copies", "failed", "equal", "apart, mean", "largest"), rows)


def _compared(facts: o.ShadowFacts) -> list[str]:
    if not facts.copies:
        return ["no copies yet", f"{facts.dropped:,} dropped" if facts.dropped else ""]
    found = [f"{facts.copies:,} copies", f"{facts.equal:,} equal"]
    if facts.agreed > facts.equal:
        found.append(f"{facts.agreed:,} with the same label")
    if facts.largest_difference:
        found.append(f"apart {_far(facts.mean_difference)} on average, {_far(facts.largest_difference)} at most")
    took = f"p99 {facts.p99_ms:.3g} ms" if facts.p99_ms is not None else ""
    return [*found, f"{facts.failed:,} failed", f"{facts.dropped:,} dropped", took]


def _far(number_: float) -> str:
    return f"{number_:.3g}"


def _told(confirmed: int) -> str:
    return f"confirmed by {count(confirmed, 'worker')}" if confirmed else "no node runs there now"


def render_rollback(back: o.RollbackOutcome) -> Iterator[str]:
    """Yield what went back, to what, and how fast."""
    what = f"r{back.before} -> r{back.after} = version {back.version}"
    some = count(len(back.segments), "segment") if back.segments else ""
    confirmed = f"confirmed by {count(back.confirmed, 'worker')}" if back.confirmed else "no node runs there now"
    yield line(back.environment, what, some, confirmed, seconds(back.seconds))
    if back.without_database:
        yield line("note", "the database was not reached: this is written down there as soon as it is")


def render_approval(said: o.ApproveOutcome) -> Iterator[str]:
    """Yield what was said, by whom, of whose work."""
    word = "approved" if said.approved else "declined"
    yield line(word, f"version {said.version} of {said.model} for {said.environment}", f"by {said.by}", said.reason)
    yield line("", f"built by {said.built_by or 'somebody who is not recorded'}")


def render_hold(held: o.HoldOutcome) -> Iterator[str]:
    """Yield whether releases are on hold."""
    if held.held:
        until = f"until {moment(held.until)}" if held.until else "until `modelmill resume`"
        yield line(held.environment, f"{held.model} stays r{held.release}", until, held.reason)
    else:
        yield line(held.environment, f"{held.model} may be released again", f"r{held.release} is current")


def render_history(history: o.HistoryOutcome) -> Iterator[str]:
    """Yield the moves, the newest first, and what is on hold."""
    if not history.moves:
        yield "nothing was released yet"
    else:
        header = ("when", "environment", "model", "what", "release", "by", "why", "by labels")
        shown = len(header) if any(move.quality for move in history.moves) else -1
        yield from table(header[:shown], [_move(move)[:shown] for move in history.moves])
    for name, why in history.holds.items():
        yield line("on hold", name, why)


def _move(move: o.MoveFacts) -> tuple[str, ...]:
    quality = _quality(move.quality) if move.quality else ""
    place = move.environment, move.model, move.kind
    return moment(move.at), *place, _pair(move), move.by, move.reason, quality


def _quality(found: o.ChampionVerdict) -> str:
    """Return what labels said of a release, in few words; `labels show` has all of it."""
    like = "like" if found.verdict == "no clear difference" else f"{found.verdict} than"
    figures = f"{found.measure} {number(found.own)} beside {number(found.other)}"
    return f"r{found.release} {like} r{found.before}: {figures}, {found.rows:,} rows"


def _pair(move: o.MoveFacts) -> str:
    before = f"r{move.before}" if move.before else "-"
    return f"r{move.after}" if move.before == move.after else f"{before} -> r{move.after}"
