"""The servers that are compared: what each needs, how it is started and asked, and where its probabilities stand.

Each serves one unconverted scikit-learn pickle the way its own documentation says, and answers `predict_proba`. MLflow
has one process a model; so that memory is comparable, all others are given one model as well.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
_SKLEARN = ("scikit-learn==1.9.1", "numpy==2.4.6")
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Row = Sequence[float]


class Ask(NamedTuple):
    """A request."""

    path: str
    body: dict[str, Any]
    behind: bytes = b""
    """Tensors in bytes, behind the JSON."""

    def text(self) -> bytes:
        """Return the body's JSON."""
        return json.dumps(self.body, separators=(",", ":")).encode()

    def content(self) -> bytes:
        """Return the body's bytes."""
        return self.text() + self.behind

    def headers(self) -> dict[str, str]:
        """Return the headers that say what the body is."""
        if not self.behind:
            return {"Content-Type": "application/json"}
        return {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(self.text())),
        }

    def encode(self, port: int) -> bytes:
        """Return the whole request as the bytes of HTTP/1.1; the connection stays."""
        content = self.content()
        lines = (
            f"POST {self.path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            *(f"{name}: {value}" for name, value in self.headers().items()),
            f"Content-Length: {len(content)}",
        )
        return "\r\n".join([*lines, "", ""]).encode() + content


class Peer(NamedTuple):
    """A server."""

    name: str
    ask: Callable[[str, Row], Ask]
    """The request for one row of a model."""
    read: Callable[[Any], Sequence[float]] | None
    """The probabilities in its answer; None where it has no model."""
    requirements: tuple[str, ...] = ()
    """What its environment holds; nothing means this project's own."""
    options: tuple[str, ...] = ()
    """More arguments of its script."""
    script: str = ""
    """Where it is not ``peer_NAME.py``; peers with one script share an environment."""
    python: str = sys.executable
    """What its environment is made of."""
    takes_bytes: bool = False
    """Whether it knows the protocol's tensors in bytes."""
    detaches: bool = False
    """Whether its script ends, leaves a server behind and says its pid as JSON on its last line."""

    @property
    def kind(self) -> str:
        """Return the name of its script and environment."""
        return self.script or self.name

    def argv(self, environments: Path, models: Path, model: str, port: int) -> list[str]:
        """Return the command that starts it."""
        python = str(environments / self.kind / "bin" / "python") if self.requirements else sys.executable
        return [python, str(HERE / f"peer_{self.kind}.py"), str(models), model, str(port), *self.options]


# ------------------------------------------------------------------ requests and answers


def ask_v2(model: str, row: Row) -> Ask:
    """Return a request of the Open Inference Protocol with one tensor."""
    tensor = {"name": "x", "shape": [1, len(row)], "datatype": "FP64", "data": list(row)}
    return Ask(f"/v2/models/{model}/infer", {"inputs": [tensor]})


def ask_v2_bytes(model: str, rows: Sequence[Row]) -> Ask:
    """Return a request with one tensor of many rows in bytes, to be answered in bytes."""
    content = b"".join(struct.pack(f"<{len(row)}d", *row) for row in rows)
    sized = {"binary_data_size": len(content)}
    tensor = {"name": "x", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "parameters": sized}
    return Ask(f"/v2/models/{model}/infer", {"inputs": [tensor], "parameters": {"binary_data_output": True}}, content)


def read_v2_bytes(content: bytes, rows: int) -> Sequence[float]:
    """Return the probabilities of two classes, which are the last bytes of an answer."""
    return struct.unpack(f"<{2 * rows}d", content[-16 * rows :])


def _ask_mlserver(model: str, row: Row) -> Ask:
    path, body, _ = ask_v2(model, row)
    return Ask(path, {**body, "outputs": [{"name": "predict_proba"}]})


def _ask_rows(path: str, name: str = "rows") -> Callable[[str, Row], Ask]:
    return lambda _, row: Ask(path, {name: [list(row)]})


def _read_first(answer: Any) -> Sequence[float]:
    return answer["outputs"][0]["data"]


def _read_named(answer: Any) -> Sequence[float]:
    return next(output["data"] for output in answer["outputs"] if output["name"] == "probabilities")


def _read_rows(answer: Any) -> Sequence[float]:
    return answer["probabilities"][0]


# ------------------------------------------------------------------ the peers

_MLSERVER = ("mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop==0.21.0", *_SKLEARN)
"""With uvloop 0.22 or newer its workers end at once: they rely on an event loop that nobody made."""

PEERS = (
    Peer("modelmill", ask_v2, _read_named, takes_bytes=True, detaches=True),
    Peer("hello", ask_v2, None, ("uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0")),
    Peer("fastapi", _ask_rows("/predict"), _read_rows, ("fastapi==0.165.0", "uvicorn[standard]==0.54.0", *_SKLEARN)),
    Peer("mlserver", _ask_mlserver, _read_first, _MLSERVER, options=("1",)),
    Peer("mlserver-0", _ask_mlserver, _read_first, _MLSERVER, options=("0",), script="mlserver"),
    Peer("kserve", ask_v2, _read_first, ("kserve==0.21.0", *_SKLEARN), takes_bytes=True),
    Peer(
        "mlflow",
        _ask_rows("/invocations", "inputs"),
        lambda answer: answer["predictions"][0],
        ("mlflow==3.17.2", *_SKLEARN),
    ),
    Peer("litserve", _ask_rows("/predict"), _read_rows, ("litserve==0.2.19", *_SKLEARN)),
    Peer("bentoml", _ask_rows("/predict"), lambda answer: answer[0], ("bentoml==1.4.39", *_SKLEARN)),
    Peer("rayserve", _ask_rows("/"), _read_rows, ("ray[serve]==2.60.0", *_SKLEARN)),
    # pytriton 0.7.0 asks for a numpy before 2.
    Peer(
        "triton",
        ask_v2,
        _read_named,
        ("nvidia-pytriton==0.7.0", "scikit-learn==1.9.1", "numpy==1.26.4"),
        python="/usr/bin/python3.11",
        takes_bytes=True,
    ),
)


# ------------------------------------------------------------------ environments


def make_environment(peer: Peer, environments: Path) -> None:
    """Make a peer's environment, once: the list of what it holds is written when it is complete."""
    place = environments / peer.kind
    listed = place / "requirements.txt"
    wanted = "\n".join(peer.requirements)
    if not peer.requirements or (listed.exists() and listed.read_text() == wanted):
        return
    shutil.rmtree(place, ignore_errors=True)
    uv = shutil.which("uv") or str(Path(sys.prefix) / "bin" / "uv")
    subprocess.run([uv, "venv", "--quiet", "--python", peer.python, place], check=True)
    command = [uv, "pip", "install", "--quiet", "--python", place / "bin" / "python", *peer.requirements]
    subprocess.run(command, check=True)
    listed.write_text(wanted)


def variables() -> dict[str, str]:
    """Return the environment variables of every server: one thread a library, and nothing of this process's Python."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, **_ONE_THREAD, "PYTHONUNBUFFERED": "1"}
