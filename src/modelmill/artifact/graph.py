"""A model as a graph of ONNX Runtime: what is no plain array, and needs neither its library nor its user's code to answer.

Its bytes: a magic word, the length of a header in msgpack, the header, then the graph in ONNX Runtime's own format, optimised
when it was built. Nothing is optimised, looked for in another file, or guessed when it is opened.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.agreeing import apart
from modelmill.artifact.saved import Classes, Cold, Floats, Programs, Saved
from modelmill.errors import BlobBroken, GraphRuntimeMissing

_MAGIC = b"MMOX"
_FORMAT = 1
_HEAD = struct.Struct("<4sHxxI")
_ORT = b"ORTM"
"""What stands at the fifth byte of ONNX Runtime's own format: the identifier of its flatbuffers."""
INPUT, OUTPUT = "x", "answers"
MOST_HITS = 3


class GraphHeader(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a graph before it is opened; thousands of models of a fleet have the same one."""

    features: int
    classes: tuple[int, tuple[int, ...]] | None
    programs: tuple[bytes, bytes]
    single: bool
    """Whether it computes in float32. Then rows are answered one by one: together they have other last digits."""
    made_by: str
    """``onnxruntime 1.32.0``"""


class Graph(Saved):
    """A model whose graph is open, or will be when it is asked: `session` is None as long as it is not."""

    def __init__(self, header: GraphHeader) -> None:
        """Take what is known of it; it is not open."""
        classes = Classes(*header.classes) if header.classes else None
        super().__init__(header.features, classes, Programs(*header.programs))
        self.header = header
        self.session: Any = None
        self.hits = 0
        """How often it was asked since somebody looked, up to `MOST_HITS`: who makes room keeps what is asked."""
        self.dtype: Any = np.float32 if header.single else np.float64

    def raw(self, x: Floats) -> Floats:
        """Return what the library itself answers; raises `Cold` where it is not open, ValueError where ``x`` is refused."""
        session = self.session
        if session is None:
            raise Cold
        numbers = self._checked(x)
        if not np.isfinite(numbers).all():  # as its library: the graph might answer something
            raise ValueError("x holds NaN or infinity")
        if self.hits < MOST_HITS:
            self.hits += 1
        answers = self._run(session, numbers.astype(self.dtype, copy=False))
        if self.classes is not None:
            return answers.reshape(len(x), -1)
        return answers.reshape(len(x))

    def _run(self, session: Any, x: NDArray[Any]) -> Floats:
        """Return what a session answers; in float32 row by row, so that an answer depends on its row alone."""
        if not self.header.single or len(x) < 2:
            return np.asarray(session.run([OUTPUT], {INPUT: x})[0], dtype=np.float64)
        rows = [session.run([OUTPUT], {INPUT: x[place : place + 1]})[0] for place in range(len(x))]
        return np.asarray(rows, dtype=np.float64)

    def agrees(self, x: Floats, expected: Floats) -> bool:
        """Return whether `answer` gives these answers, as exactly as `tolerance` says."""
        if x.ndim != 2 or x.shape[1] != self.features:
            return False
        try:
            found = self.answer(x)
        except ValueError:
            return False
        return found.shape == expected.shape and bool((apart(found, expected) <= self.tolerance).all())

    @property
    def tolerance(self) -> float:
        """Return how far an answer may be from the object's own, see `apart`."""
        return tolerance_of(single=self.header.single)


def tolerance_of(*, single: bool) -> float:
    """Return how far `apart` two answers may be that count as equal: sums are added in another order.

    A rehearsal allows ten times as much, and so does another machine's linear algebra.
    """
    return 1e-6 if single else 1e-10


def encode(header: GraphHeader, ort: bytes) -> bytes:
    """Return a graph as an artifact."""
    told = msgspec.msgpack.encode(header)
    return _HEAD.pack(_MAGIC, _FORMAT, len(told)) + told + ort


def split(content: bytes | memoryview) -> tuple[GraphHeader, memoryview]:
    """Return the header of an artifact, and the graph in ONNX Runtime's format; anything else raises `BlobBroken`."""
    view = memoryview(content)
    try:
        magic, version, length = _HEAD.unpack_from(view)
        if magic != _MAGIC or version != _FORMAT:
            raise BlobBroken("these bytes are no graph", expected=f"format {_FORMAT}", got=f"{magic!r} {version}")
        end = _HEAD.size + length
        header, ort = _read_header(bytes(view[_HEAD.size : end])), view[end:]
    except (
        struct.error,
        msgspec.MsgspecError,
        UnicodeDecodeError,
    ) as error:  # a text that is none is not among its own
        raise BlobBroken("these bytes are no graph", got=str(error)[:120]) from error
    if ort[4:8] != _ORT:
        raise BlobBroken("a graph's bytes are not in ONNX Runtime's format", got=f"{bytes(ort[:8])!r}")
    return header, ort


@lru_cache(maxsize=1024)
def _read_header(content: bytes) -> GraphHeader:
    return msgspec.msgpack.decode(content, type=GraphHeader)


def decode(content: bytes | memoryview) -> Graph:
    """Return the model in these bytes, open."""
    header, ort = split(content)
    graph = Graph(header)
    graph.session = open_session(header, ort)
    return graph


def open_session(header: GraphHeader, ort: bytes | memoryview) -> Any:
    """Return a session of ONNX Runtime that answers with a graph; raises `BlobBroken` where it cannot be opened.

    One thread, because thousands of models with threads of their own would leave the process none; memory as it is needed
    and given back at once, because an arena each keeps 40 KB for nothing.
    """
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ORT")
    try:
        session = runtime.InferenceSession(bytes(ort), options, providers=["CPUExecutionProvider"])
        shape = session.get_inputs()[0].shape if len(session.get_inputs()) == 1 else []
        outputs = [output.name for output in session.get_outputs()]
    except Exception as error:  # its errors have no common class
        raise BlobBroken(
            "a graph cannot be opened",
            expected=f"a graph of {header.made_by}",
            got=f"onnxruntime {runtime.__version__}: {error}"[:200],
        ) from error
    if outputs != [OUTPUT] or len(shape) != 2 or shape[1] != header.features:
        raise BlobBroken(
            "a graph takes or gives something else than its header says", got=f"{shape} -> {outputs}"[:200]
        )
    session._model_bytes = None  # noqa: SLF001 - it has read them, and would keep them for ever
    return session


def onnxruntime() -> Any:
    """Return the library; raises `GraphRuntimeMissing` where it is not installed."""
    try:
        import onnxruntime as runtime
    except ImportError as error:
        raise GraphRuntimeMissing(
            "this model is a graph of ONNX Runtime, which is not installed here",
            got=str(error)[:120],
            next="pip install 'modelmill[onnx]'",
        ) from error
    return runtime
