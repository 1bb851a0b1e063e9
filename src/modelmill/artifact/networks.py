"""Networks of torch: asked as any other fitted object is, and written in ONNX's form.

torch is never imported here: whoever hands over a network has imported it.
"""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelmill.artifact.graph import INPUT, OUTPUT
from modelmill.artifact.saved import Floats
from modelmill.errors import NetworkUnusable

_EXAMPLE_ROWS = 3
"""Neither none nor one: an exporter takes these for special."""
_KEPT = 16
_SUM_ERROR = 1e-6
"""Probabilities of a softmax in float64 add up to one far more exactly than this."""


def as_model(fitted: Any, classes: int) -> Any:
    """Return what train() returned as what can be asked: a network without a predict() of its own becomes a `Network`.

    `classes` is 0 for a regression.
    """
    if not is_module(fitted) or hasattr(fitted, "predict"):
        return fitted
    return ClassNetwork(fitted, classes) if classes else Network(fitted)


def is_module(fitted: Any) -> bool:
    """Return whether an object is a `torch.nn.Module`."""
    return _inherits(fitted, "torch.nn.modules.module", "Module")


def is_tensor(value: Any) -> bool:
    """Return whether an object is a `torch.Tensor`, a parameter included."""
    return _inherits(value, "torch", "Tensor")


def _inherits(value: Any, module: str, name: str) -> bool:
    return any((kind.__module__, kind.__name__) == (module, name) for kind in type(value).__mro__)


class Network:
    """A network as a fitted estimator: `predict` takes and gives arrays; all else is the module's own.

    It is asked in float64, whatever the type of its weights. Each weight of float32 is a float64 as well, so it is the same
    function, computed more exactly: its answers to a row do not depend on how many rows are asked together, and a
    graph, a child and another machine give the same ones to the tenth digit.
    """

    def __init__(self, module: Any) -> None:
        """Take a module as train() returned it; dropout and the like are off from here on."""
        self.module = module.eval()
        self._exact: Any = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "module":  # while it is being opened, there is none yet
            raise AttributeError(name)
        return getattr(self.module, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Ask the module as torch does: tensors, in the type of its weights."""
        return self.module(*arguments, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_exact"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _exact=None)

    @property
    def exact(self) -> Any:
        """Return the module in float64, on the processor."""
        if self._exact is None:
            self._exact = copy.deepcopy(self.module).to("cpu", _torch().float64).eval()
        return self._exact

    def predict(self, x: Floats) -> NDArray[Any]:
        """Return (rows,) numbers; raises `NetworkUnusable`, ValueError for what is no number in ``x``."""
        found = self._raw(x)
        if found.size != len(x):
            raise _unusable(self.module, "it gives not one number a row", f"answers of the shape {found.shape}")
        return found.reshape(-1)

    def _raw(self, x: Floats) -> Floats:
        if not np.isfinite(x).all():  # as scikit-learn does, and a graph
            raise ValueError("x holds NaN or infinity, and a network is asked numbers: fill the gaps in @features")
        torch = _torch()
        try:
            with torch.inference_mode():
                found = self.exact(torch.tensor(x, dtype=torch.float64))
        except RuntimeError as error:  # of torch; those of its maker's own code are told as they are
            raise _unusable(self.module, "torch fails in its forward()", f"{error}"[:200]) from error
        if not isinstance(found, torch.Tensor):
            raise _unusable(self.module, "it gives no tensor", f"a {type(found).__name__}")
        answers: Floats = found.to(torch.float64).numpy()
        return answers


class ClassNetwork(Network):
    """A network whose outputs are the probabilities of classes."""

    def __init__(self, module: Any, classes: int) -> None:
        """Take a module, and how many classes the target has."""
        super().__init__(module)
        self.classes_ = np.arange(classes)

    def predict(self, x: Floats) -> NDArray[Any]:
        """Return (rows,) codes of the likeliest classes."""
        codes: NDArray[Any] = self.predict_proba(x).argmax(axis=1)
        return codes

    def predict_proba(self, x: Floats) -> Floats:
        """Return (rows, classes) probabilities; raises as `Network.predict` does."""
        found, classes = self._raw(x), len(self.classes_)
        if classes == 2 and found.size == len(x):  # as a sigmoid ends a network: of the second class
            self._exact = _of_both()(self.exact)
            found = self._raw(x)
        if found.shape != (len(x), classes):
            raise _unusable(
                self.module,
                f"it gives not one number a row for each of {classes} classes",
                f"answers of the shape {found.shape}",
            )
        if (found < 0).any() or (np.abs(found.sum(axis=1) - 1) > _SUM_ERROR).any():
            raise _unusable(self.module, "its outputs are no probabilities", f"{found[0].tolist()}"[:200])
        return found


def _unusable(module: Any, why: str, got: str) -> NetworkUnusable:
    return NetworkUnusable(
        f"the network `{type(module).__name__}` cannot be asked as a model: {why}",
        got=got,
        likely="it is asked in float64, for numbers, or for probabilities where the target is a class",
        next="end it with torch.nn.Softmax(dim=1) or torch.nn.Sigmoid(), or write @predict(model, x) with what it wants",
    )


def _torch() -> Any:
    return sys.modules["torch"]


@cache
def _of_both() -> Any:
    """Return the module that makes probabilities of both classes out of the second one's."""
    torch = _torch()

    class OfBoth(torch.nn.Module):  # type: ignore[misc, name-defined]  # the library is looked for when it is needed
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner
            self.eval()

        def forward(self, x: Any) -> Any:
            second = self.inner(x).reshape(-1, 1)
            return torch.cat([1 - second, second], dim=1)

    return OfBoth


# ------------------------------------------------------------------ in ONNX's form

_templates: OrderedDict[Any, bytes] = OrderedDict()
"""What was exported last, by architecture: torch takes two seconds for any network, and a fleet has thousands of one."""


def write(network: Network, features: int) -> bytes:
    """Return a network in ONNX's form, float64: one input of (rows, features), one output. Whatever torch raises, goes on.

    Of each architecture one is exported; the weights of others are put in their places.
    """
    import onnx

    key = _architecture(network.exact, features)
    template = _templates.get(key) if key is not None else None
    if template is not None:
        _templates.move_to_end(key)
        return _with_weights(onnx.load_from_string(template), network.exact)
    content: bytes = _exported(network.exact, features)
    if key is not None:
        _templates[key] = content
        while len(_templates) > _KEPT:
            _templates.popitem(last=False)
    return content


def forget_architectures() -> None:
    """Export the next network whatever was exported before: for a measurement, or memory."""
    _templates.clear()


def _exported(module: Any, features: int) -> bytes:
    torch = _torch()
    program = import_module("torch.onnx").export(
        module,
        (torch.zeros(_EXAMPLE_ROWS, features, dtype=torch.float64),),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("rows")},),
        dynamo=True,
        optimize=False,  # weights keep their names and values; ONNX Runtime optimises
        verbose=False,
    )
    content: bytes = program.model_proto.SerializeToString(deterministic=True)
    return content


def _architecture(module: Any, features: int) -> Any:
    """Return what two networks share whose graphs differ by their weights alone; None where that is not certain.

    That is whatever the modules hold beside weights: classes, and settings that are plain values. A tensor that is
    neither parameter nor buffer, a hook or any other object may be written into the graph as a constant.
    """
    own = set(vars(_torch().nn.Module()))
    parts: list[Any] = [features]
    for name, part in module.named_modules():
        held = vars(part)
        if any(held.get(hooks) for hooks in own if "hooks" in hooks):
            return None
        settings = {key: value for key, value in held.items() if key not in own}
        if not all(_is_plain(value) for value in settings.values()):
            return None
        parts.append((name, type(part), tuple((key, type(value), value) for key, value in settings.items())))
    first: dict[int, str] = {}
    for name, tensor in _weights(module).items():  # of weights that are tied, it counts which ones
        parts.append((name, tuple(tensor.shape), tensor.dtype, first.setdefault(id(tensor), name)))
    return tuple(parts)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str)


def _weights(module: Any) -> dict[str, Any]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _with_weights(proto: Any, module: Any) -> bytes:
    """Return a graph with the weights of another network of its architecture."""
    from onnx.numpy_helper import from_array

    weights = _weights(module)
    for place in proto.graph.initializer:
        if place.name in weights:
            place.CopyFrom(from_array(weights[place.name].detach().numpy(), place.name))
    content: bytes = proto.SerializeToString(deterministic=True)
    return content
