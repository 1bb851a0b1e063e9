"""The second half of the demo: a plan, a release to prod, a bad version that its canary takes back, and a roll-back."""

from __future__ import annotations

import http.client
import itertools
import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

import modelmill as mm

CONNECTIONS = 4
NIGHT_SHARE = 20
"""Every so manieth flight of the demo leaves at four in the morning, when no flight of the year did."""
GOOD, BAD = "rows.hour, np.sin", "np.log(rows.hour - 4), np.sin"
"""What the bad version does with the hour: every row of the year, and so every test, has an answer; at four there is none."""


def tell_releases(mill: mm.Mill, folder: Path, asked: Sequence[dict[str, Any]], console: Console) -> None:
    """Go from a plan to a roll-back, a line or two each."""
    tell_first(mill, console)
    node = mill.serve(environment="prod", port=0, detach=True).node
    try:
        bad = train_bad(mill, folder)
        tell_canary(mill, bad, node.url, asked, console)
        tell_rollback(mill, bad, console)
    finally:
        mill.down(environment="prod")


def tell_first(mill: mm.Mill, console: Console) -> None:
    """Plan the first release to prod, and make it."""
    plan = mill.releases.plan("prod")
    checks = "   ".join(f"{one.floor}: {_WORDS[one.ok]}" for one in plan.checks)
    console.print(
        f"\n  plan       prod: nothing -> version {plan.version}   {plan.new:,} models, {plan.load_mb:.1f} MB to map"
    )
    console.print(f"             {checks}")
    first = mill.releases.deploy("prod", plan=plan.id)
    console.print(f"  rehearsal  {first.rehearsed}, in a fresh process")
    console.print(f"  deploy     prod r{first.release} = version {plan.version}   {first.control_s:.2f} s to commit")


def tell_canary(mill: mm.Mill, bad: int, url: str, asked: Sequence[dict[str, Any]], console: Console) -> None:
    """Deploy a bad version under load, and see it taken back."""
    plan = mill.releases.plan("prod")
    console.print(f"  bad        version {bad} takes log(hour - 4) for the hour; every model of it passes every test")
    console.print(f"  plan       prod: r1 -> version {bad}   canary of {plan.of}: {' -> '.join(plan.steps)}")
    with traffic(url, asked) as counted:
        canary = mill.releases.deploy("prod", plan=plan.id).canary
    assert canary is not None
    console.print(
        f"  canary     [bold]{canary.state}[/bold] at {canary.steps[canary.step]}: {canary.exposed:,} segments exposed, "
        f"{canary.asked:,} of {counted.total():,} requests"
    )
    console.print(f"             {canary.why}")
    told = ", ".join(f"{count:,} x {status}" for status, count in counted.items())
    console.print(
        f"             answers {told}: where its own model has none the pooled one stands in, if that has one"
    )


def tell_rollback(mill: mm.Mill, bad: int, console: Console) -> None:
    """Release the bad version where no canary is asked for, and go back."""
    mill.releases.promote(bad, to="dev")
    back = mill.releases.rollback("dev", reason="demo")
    console.print(
        f"  rollback   dev has no canary and took it at once; r{back.before} -> r{back.after} = version {back.version}"
    )
    console.print(
        f"             [bold]{back.control_s:.2f} s[/bold] to commit, {back.seconds:.2f} s until {back.confirmed} worker(s) "
        "answer as before; releases are on hold until `modelmill resume air-time dev`"
    )


_WORDS = {True: "ok", False: "no", None: "not known"}


def train_bad(mill: mm.Mill, folder: Path) -> int:
    """Build a version whose fault no test sees; return its number. The model file is put back as it was."""
    file = folder / "airtime.py"
    kept = file.with_suffix(".kept")
    shutil.copy(file, kept)
    try:
        text = file.read_text(encoding="utf-8")
        assert GOOD in text
        file.write_text(text.replace(GOOD, BAD), encoding="utf-8")
        return mill.train("airtime.py").version
    finally:
        kept.replace(file)


@contextmanager
def traffic(url: str, asked: Sequence[dict[str, Any]]) -> Iterator[Counter[int]]:
    """Ask flight after flight until the block ends; count the answers by status."""
    bodies = [json.dumps(fields | ({"hour": 4} if not n % NIGHT_SHARE else {})) for n, fields in enumerate(asked)]
    found, over = Counter[int](), threading.Event()

    def ask(first: int) -> None:
        with closing(http.client.HTTPConnection(url.removeprefix("http://"))) as link:
            for body in itertools.islice(itertools.cycle(bodies), first, None, CONNECTIONS):
                if over.is_set():
                    return
                link.request("POST", "/air-time", body)
                answer = link.getresponse()
                answer.read()
                found[answer.status] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join()
