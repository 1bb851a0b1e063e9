"""A node that is asked for three and for ten times as much as it can answer: ``python bench/overload.py``.

One worker, and three ways to have too much to do: `forest`, a packed forest whose answer to a row takes milliseconds of the
worker's own event loop; `batch`, a thousand rows of JSON for a small packed model; `child`, a Python model that spins for
four milliseconds a row in a process of its own. All are slow on purpose: the generator shares the two cores, and is not to
be the limit. And a hot one beside twenty that are asked now and then (`--fair`).

An open loop: moments are drawn beforehand, and latencies counted from them (`modelmill.serving.load`). The peak is what
a closed loop of eight connections is answered. Goodput is what is answered within the deadline; a time-out is a request
without any answer five seconds after it was due.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from modelmill.serving import load
from modelmill.serving.load import LoadOrder, Round

DEADLINE_S = 0.2
GIVE_UP_S = 5.0
QUIET = 20
_FILE = """
import time
from typing import Any
import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
import modelmill as mm

class Row(mm.Schema):
    {fields}
    y: float = mm.target()

def rows(window: mm.Window) -> Any:
    import polars as pl
    return pl.read_parquet("rows.parquet")

def fit(x: np.ndarray, y: np.ndarray) -> Ridge:
    return Ridge().fit(x, y)

forest = mm.Model("forest", Row)
forest.data(rows)

@forest.train
def grow(x: np.ndarray, y: np.ndarray) -> RandomForestRegressor:
    return RandomForestRegressor({trees}, max_leaf_nodes=256, random_state=0).fit(x, y)

child = mm.Model("child", Row)
child.data(rows)
child.train(fit)

@child.predict
def spin(model: Any, x: np.ndarray) -> np.ndarray:
    until = time.thread_time() + 0.004 * len(x)
    while time.thread_time() < until:
        pass
    return model.predict(x)

{quiet}
"""
_QUIET = """
m{place} = mm.Model("quiet-{place:02d}", Row)
m{place}.data(rows)
m{place}.train(fit)
"""


def write_project(folder: Path, trees: int) -> None:
    """Write the models and their rows."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2_000, 8))
    columns = {f"f{place}": x[:, place] for place in range(8)}
    pl.DataFrame({**columns, "y": (x**2).sum(axis=1)}).write_parquet(folder / "rows.parquet")
    fields = "\n    ".join(f"f{place}: float = mm.col()" for place in range(8))
    quiet = "".join(_QUIET.format(place=place) for place in range(QUIET))
    (folder / "models.py").write_text(_FILE.format(fields=fields, trees=trees, quiet=quiet))
    (folder / "modelmill.toml").write_text('model = "models.py"\n[predictions]\nlevel = "off"\n')


def modelmill(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "modelmill", *words]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def request(path: str, rows: int = 1, deadline_s: float = DEADLINE_S) -> bytes:
    """Return a whole request for random rows, with the deadline that its client has."""
    x = np.random.default_rng(rows).normal(size=(rows, 8)).round(4)
    asked = [{f"f{place}": value for place, value in enumerate(row)} for row in x.tolist()]
    body = json.dumps(asked if rows > 1 else asked[0]).encode()
    told = f"x-request-timeout-ms: {round(1000 * deadline_s)}\r\n" if deadline_s else ""
    return f"POST /{path} HTTP/1.1\r\nhost: a\r\n{told}content-length: {len(body)}\r\n\r\n".encode() + body


# ------------------------------------------------------------------ sending


class _Noted(load._Playing):  # noqa: SLF001 - its own counts do not tell refusals from answers
    """A round of which each answer is kept: its status, when it was due, and how long it took."""

    def __init__(self, sender: Any, planned: Round) -> None:
        super().__init__(sender, planned)
        self.found: list[tuple[str, float, float]] = []

    def _take(self, link: Any) -> None:
        due, before = link.due, self.statuses.copy()
        super()._take(link)
        for status in self.statuses - before:
            self.found.append((status.decode(), due, self.latencies[-1]))


class Shot(NamedTuple):
    """What became of one side of a round."""

    due: int
    found: list[tuple[str, float, float]]
    late_p99_ms: float

    def times(self, status: str) -> np.ndarray[Any, Any]:
        """Return the seconds that answers of one status took."""
        return np.array([seconds for code, _, seconds in self.found if code == status])

    def good(self, deadline_s: float) -> int:
        """Return how many were answered in time."""
        return int((self.times("200") <= deadline_s).sum())


def shoot(port: int, asked: list[bytes], rate: float, seconds: float, connections: int, seed: int) -> Shot:
    """Send one round in this process."""
    sender = load._Sender(LoadOrder("127.0.0.1", port, [asked]))  # noqa: SLF001 - as above
    planned = Round(0, rate, seconds, seed=seed, connections=connections, patience_s=GIVE_UP_S)
    sender._connect(connections)  # noqa: SLF001 - as above
    playing = _Noted(sender, planned)
    playing.run()
    late = 1000 * float(np.quantile(playing.lateness, 0.99)) if playing.lateness else 0.0
    return Shot(len(playing.due), playing.found, late)


def _shoot_into(result: Any, *words: Any) -> None:
    result.send(shoot(*words))


def together(*several: tuple[Any, ...]) -> list[Shot]:
    """Send rounds at once, each from a process of its own."""
    running = []
    for words in several:
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_shoot_into, args=(there, *words))
        process.start()
        running.append((process, here))
    shots = [here.recv() for _, here in running]
    for process, _ in running:
        process.join()
    return shots


def peak(port: int, asked: list[bytes], seconds: float) -> float:
    """Return how many requests a second eight clients are answered that each wait for their answers."""
    sender = load._Sender(LoadOrder("127.0.0.1", port, [asked]))  # noqa: SLF001 - as above
    sender._connect(8)  # noqa: SLF001 - as above
    links, count = list(sender._links.values()), 0  # noqa: SLF001 - as above
    for link in links:
        sender.send(link, 0)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for link in sender.wait(0.1):
            answer = sender.take(link)
            if answer is not None:
                count += answer.startswith(b"HTTP/1.1 200")
                sender.send(link, 0)
    sender._drain()  # noqa: SLF001 - as above
    return count / seconds


def _ms(times: np.ndarray[Any, Any], share: float) -> float | None:
    return round(1000 * float(np.quantile(times, share)), 1) if len(times) else None


def overload(port: int, asked: list[bytes], times: float, highest: float, seconds: float, seed: int) -> dict[str, Any]:
    """Send so many times the peak; return what became of it."""
    (shot,) = together((port, asked, times * highest, seconds, 256, seed))
    (after,) = together((port, asked, 0.4 * highest, 2.0, 64, seed))
    back = [due for code, due, took in after.found if code != "200" or took > DEADLINE_S]
    found = {
        "offered": round(times * highest),
        "goodput/peak": round(shot.good(DEADLINE_S) / seconds / highest, 3),
        "accepted": len(shot.times("200")),
        "accepted p99 ms": _ms(shot.times("200"), 0.99),
        "refused": len(shot.times("503")),
        "refused p99 ms": _ms(shot.times("503"), 0.99),
        "504": len(shot.times("504")),
        "time-outs": shot.due - len(shot.found),
        "sender late p99 ms": round(shot.late_p99_ms, 1),
        "recovered after s": round(max(back), 2) if back else 0.0,
    }
    return found | {"load": round(os.getloadavg()[0], 1)}


def fairness(port: int, hot: list[bytes], highest: float, times: float, seconds: float, seed: int) -> dict[str, Any]:
    """Ask twenty models now and then, beside one that is asked for so many times its peak."""
    quiet = [request(f"quiet-{place:02d}", deadline_s=0) for place in range(QUIET)]
    quietly = (port, quiet, 100.0, seconds, 32, seed)
    (alone,) = together(quietly)
    beside, shot = together(quietly, (port, hot, times * highest, seconds, 256, seed))
    return {
        "quiet p99 ms alone": _ms(alone.times("200"), 0.99),
        "beside": _ms(beside.times("200"), 0.99),
        "quiet p50 ms alone": _ms(alone.times("200"), 0.5),
        "p50 beside": _ms(beside.times("200"), 0.5),
        "quiet not answered": beside.due - len(beside.times("200")),
        "quiet": beside.due,
        "hot answered": len(shot.times("200")),
        "hot refused": len(shot.times("503")),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=["forest", "batch", "child"])
    parser.add_argument("--times", nargs="*", type=float, default=[3.0, 10.0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--trees", type=int, default=3000)
    parser.add_argument("--fair", action="store_true")
    parser.add_argument("--folder", type=Path, help="a project that an earlier run has left, or is to leave")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (told.folder or Path(scratch) / "project").resolve()
        if not folder.exists():
            write_project(folder, told.trees)
            for name in ("forest", "child", *(f"quiet-{place:02d}" for place in range(QUIET))):
                modelmill(folder, "up", "--model", name, "--detach", "--port", "0")
            modelmill(folder, "down")
        modelmill(folder, "serve", "--detach", "--port", "0", "--workers", "1")
        try:
            port = json.loads((folder / ".modelmill/run/dev/node.json").read_text())["port"]
            ways = {"forest": ("forest", 4), "batch": ("quiet-00", 1000), "child": ("child", 1)}
            for turn in range(told.rounds):
                for name in told.only:
                    asked, patient = [request(*ways[name])], [request(*ways[name], deadline_s=0)]
                    for times in told.times:
                        highest = peak(port, patient, 2.0)
                        if told.fair:
                            found = fairness(port, asked, highest, times, told.seconds, turn)
                        else:
                            found = overload(port, asked, times, highest, told.seconds, turn)
                            found["peak after"] = round(peak(port, patient, 2.0))
                        print(json.dumps({"of": name, "times": times, "peak": round(highest), **found}), flush=True)
        finally:
            modelmill(folder, "down")


if __name__ == "__main__":
    main()
