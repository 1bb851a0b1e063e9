"""What copies cost a node: ``python bench/shadow.py --rounds 8``.

A logistic regression of 30 features on one core, its packed candidate as a shadow of every request, the generator of
`bench/serving` on the other core. Each round loads the node without a shadow, with one and with three, in an order that
turns, each time first as fast as it can (closed loop) and then at half of its own rate of that round without a shadow (open
loop, latency from the planned moment). A ratio is of two loads of one round; what is told is the median of the rounds, with all
of them. Requests a second and latencies move with whatever else the machine does; the processor time of a request, of all the
node's processes, much less: its inverse is the peak that a core of one's own would show. A shadow that dropped copies did less
than it was to: how many it answered is told beside.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "serving"))

import loadgen
import processes
from make_models import FEATURES, make_rows
from peer_modelmill import write_project

MODEL = "lr"
OUT = Path(__file__).parent / "out" / "shadow"
CANDIDATES = ("C=0.5, ", "C=0.2, ", "C=0.1, ")
COUNTS = (0, 1, 3)


def main() -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(prog="python bench/shadow.py")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2, help="of each load; a round has six")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--cores", type=int, nargs=2, default=(0, 1), help="the node's, the generator's")
    options = parser.parse_args()
    program = loadgen.compile_loadgen(OUT)
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "p"
        node = started(project)
        try:
            processes.pin(node["pid"], options.cores[0])
            load = loadgen.Load(node["port"], requests(), options.connections, options.seconds, core=options.cores[1])
            loadgen.run(program, load)  # to warm up
            rounds = [one_round(project, program, node["pid"], load, place) for place in range(options.rounds)]
        finally:
            modelmill(project, "down")
    found = {"options": vars(options), "rounds": rounds, "ratios": ratios(rounds)}
    (OUT / "shadow.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found["ratios"], indent=1))


def started(project: Path) -> dict[str, Any]:
    """Build the live version and the candidates, and return the node that serves the first."""
    write_project(project, MODEL)
    node: dict[str, Any] = modelmill(project, "up", "--detach", "--port", "0")["node"]
    file = project / f"{MODEL}.py"
    text = file.read_text()
    for other in CANDIDATES:
        file.write_text(text.replace("max_iter=1000", f"{other}max_iter=1000"))
        modelmill(project, "train")
    return node


def requests() -> list[bytes]:
    """Return whole requests for one row each, with named fields."""
    x, _ = make_rows(MODEL, 64, seed=1)
    return [request_of(MODEL, {f"f{place}": row[place] for place in range(FEATURES[MODEL])}) for row in x.tolist()]


def request_of(model: str, row: dict[str, float]) -> bytes:
    """Return one request."""
    body = json.dumps(row).encode()
    head = f"POST /{model} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def one_round(project: Path, program: Path, root: int, load: loadgen.Load, place: int) -> dict[str, Any]:
    """Load the node with each number of shadows, in an order that turns."""
    order = [COUNTS[(place + step) % len(COUNTS)] for step in range(len(COUNTS))]
    full = {count: measured(project, program, root, load, count) for count in order}
    half = load._replace(rate=full[0]["requests_s"] / 2)
    found = {
        str(count): {"full": full[count], "half": measured(project, program, root, half, count)} for count in order
    }
    for name, one in found.items():
        full, p99 = one["full"], one["half"]["p99_us"]
        line = f"{full['requests_s']:.0f}/s, {full['cpu_us']:.1f} us CPU, p99 {p99:.0f} us at half load"
        print(place, name, line, file=sys.stderr, flush=True)
    return found


def measured(project: Path, program: Path, root: int, load: loadgen.Load, shadows: int) -> dict[str, Any]:
    """Load the node once while some versions answer copies, and say what became of these."""
    for number in range(shadows):
        modelmill(project, "shadow", str(number + 2))
    before = processes.cpu_seconds(root)
    found: dict[str, Any] = loadgen.run(program, load)
    found["cpu_us"] = 1e6 * (processes.cpu_seconds(root) - before) / found["requests"]
    if found["failed"]:
        raise RuntimeError(f"{found['failed']} requests failed")
    ended = modelmill(project, "shadow", "--stop")["shadows"] if shadows else []
    keep = ("version", "copies", "failed", "equal", "agreed", "dropped", "p50_ms", "p99_ms")
    return found | {"shadows": [{name: one[name] for name in keep} for one in ended]}


def ratios(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return for each number of shadows the ratios to none, by round and their median, and the share that was answered."""
    found: dict[str, Any] = {}
    for name in map(str, COUNTS[1:]):
        peak = [one[name]["full"]["requests_s"] / one["0"]["full"]["requests_s"] for one in rounds]
        found[f"{name} shadows"] = {
            "peak": told(peak),
            "peak by processor time": told(
                [one["0"]["full"]["cpu_us"] / one[name]["full"]["cpu_us"] for one in rounds]
            ),
            **{
                f"{quantile} at half load": told(
                    [one[name]["half"][quantile] / one["0"]["half"][quantile] for one in rounds]
                )
                for quantile in ("p50_us", "p99_us")
            },
            "answered at full load": told([answered(one[name]["full"]) for one in rounds]),
            "answered at half load": told([answered(one[name]["half"]) for one in rounds]),
        }
    return found


def answered(load: dict[str, Any]) -> float:
    """Return which share of the copies was answered."""
    copies = sum(one["copies"] for one in load["shadows"])
    return copies / max(1, copies + sum(one["dropped"] for one in load["shadows"]))


def told(values: list[float]) -> dict[str, Any]:
    """Return the median and all values."""
    return {"median": round(statistics.median(values), 4), "rounds": [round(value, 3) for value in values]}


def modelmill(project: Path, *arguments: str) -> Any:
    """Ask the command line, with what it says as JSON."""
    command = [sys.executable, "-m", "modelmill", *arguments, "--json"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
