"""The quick way to the answer to one row: what most requests are, without the objects that batches need.

It says nothing about what is wrong: whatever is not a valid request for one row of a packed model that answers - another
form, a missing field, a value out of its range, a model that gives no number - is left to the general way in `plane` by
returning None. Where it answers, it answers with the same bytes (tests/laws/test_quick_answers.py).

In numbers: of the 8 us that a logistic regression with 30 features takes here, 1.5 are msgspec's for JSON, 1 is numpy's
for the array, 1 the kernel's and 0.5 msgspec's for the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import isfinite
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np

from modelmill.artifact.saved import Cold
from modelmill.artifact.tracing import open_program
from modelmill.errors import ModelmillError
from modelmill.model.decoding import Values, may_repeat
from modelmill.model.fitted import Floats, as_matrix
from modelmill.model.request import Batch
from modelmill.names import Segment, format_segment
from modelmill.registry.fleet import SAFE, Entry
from modelmill.serving import protocol
from modelmill.serving.choices import Choice, Found
from modelmill.serving.log import as_logged
from modelmill.serving.meters import Meters
from modelmill.serving.protocol import MATRIX, NUMBERS
from modelmill.serving.served import ServedModel, kind_of, told_of
from modelmill.serving.split import Split

_MOST_CHOICES = 100_000
_encode = msgspec.json.Encoder().encode
_LEFT_TO_THE_GENERAL_WAY = (
    Cold,
    msgspec.MsgspecError,
    ModelmillError,
    ArithmeticError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Nothing raised here may reach the parser's callbacks, where it would end the connection without a word."""
_ONE = ([1], [1, 1])
"""The shapes of one value."""


class _Numbers(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class _Matrix(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Numbers]


class _Values(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[int | float | str | bool]


class _Inputs(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[_Values]


_decode_matrix = msgspec.json.Decoder(_Matrix).decode
_decode_inputs = msgspec.json.Decoder(_Inputs).decode
_TYPES = {"text": (str,), "bool": (bool,), "int": (int,), "float": (int, float)}


Tell = Callable[[Choice, list[float]], bytes]


class Quick:
    """Answers single rows of one model."""

    def __init__(self, model: ServedModel | Split, meters: Meters, share: float) -> None:
        """Take a served model, all of whose entries are packed, what counts its answers, and which share is logged."""
        self._model, self._parser, self._meters, self._share = model, model.parser, meters, share
        self._labels = model.header.labels
        self._choose = lru_cache(maxsize=_MOST_CHOICES)(self._find_choice)
        for side in model.sides:
            side.remember(self._choose)
        features = self._parser.spec.features
        takes_matrix = self._parser.takes_matrix and MATRIX not in self._parser.columns
        self._row_shape = [1, len(features)] if takes_matrix else None
        places = self._parser.feature_places
        self._pick = itemgetter(*places) if places and len(places) > 1 and not self._parser.codes else None
        self._label_texts = [_encode(label) for label in self._labels]

    # ---------------------------------------------------------------- named fields

    def predict(self, body: bytes, address: Segment | None, here: Choice | None) -> Found | None:
        """Return the answer to one object of named fields, None for the general way.

        `here` is what answers for the segment in the address, where there is one.
        """
        try:
            values = self._parser.read_one(body, address)
            return None if values is None else self._of_row(values, here, self._tell)
        except _LEFT_TO_THE_GENERAL_WAY:
            return None

    def of_row(self, values: Values, *, v2: bool) -> Found | None:
        """Return the answer to a row that was read; None for the general way."""
        try:
            return self._of_row(values, None, self._tell_v2 if v2 else self._tell)
        except _LEFT_TO_THE_GENERAL_WAY:
            return None

    def _of_row(self, values: Values, here: Choice | None, tell: Tell) -> Found | None:
        choice = here or self._choose(self._parser.segment_of(values))
        if choice.before is not None:
            x = as_matrix(choice.before.run(Batch(self._parser, (values,), None, ()).rows))
        elif self._pick is not None:
            x = np.array((self._pick(values),), dtype=np.float64)
        else:
            x = Batch(self._parser, (values,), None, ()).features()
        return self._told(choice, x, (values,), tell)

    def _told(self, choice: Choice, x: Floats, inputs: bytes | tuple[Values], tell: Tell) -> Found | None:
        found = choice.model.one(x)
        for number in found:
            if not isfinite(number):
                return None
        return Found(tell(choice, found), choice, inputs, found, x)

    def _tell(self, choice: Choice, found: list[float]) -> bytes:
        pieces = choice.named
        if not self._labels:
            return b"%b%b%b" % (pieces[0], _encode(found[0]), pieces[1])
        parts = [pieces[0], self._label_texts[found.index(max(found))]]
        for piece, number in zip(pieces[1:], found, strict=False):
            parts += piece, _encode(number)
        return b"".join([*parts, pieces[-1]])

    # ---------------------------------------------------------------- V2

    def infer(self, body: bytes, address: Segment | None, here: Choice | None) -> Found | None:
        """Return the reply to an inference request for one row, None for the general way."""
        try:
            if self._row_shape is not None and here is not None:
                found = self._of_matrix(body, address or (), here)
                if found is not None:
                    return found
            return self._of_inputs(body, address, here)
        except _LEFT_TO_THE_GENERAL_WAY:
            return None

    def _of_matrix(self, body: bytes, segment: Segment, choice: Choice) -> Found | None:
        """Answer a request whose one input is the matrix of features."""
        try:
            (tensor,) = _decode_matrix(body).inputs
        except ValueError:  # another form, or no JSON at all
            return None
        if tensor.name != MATRIX or tensor.shape != self._row_shape or tensor.datatype not in NUMBERS:
            return None
        if len(tensor.data) != tensor.shape[1] or may_repeat(body, 5):
            return None
        x = given = np.array((tensor.data,), dtype=np.float64)
        if self._parser.has_promises and self._parser.is_outside(x):  # JSON holds no infinity and no NaN
            return None
        if choice.before is not None:
            x = as_matrix(choice.before.run(self._parser.of_matrix(x, [self._parser.keys_of(segment)]).rows))
        return self._told(choice, x, given.tobytes(), self._tell_v2)

    def _of_inputs(self, body: bytes, address: Segment | None, here: Choice | None) -> Found | None:
        """Answer a request with one input a field."""
        values = self.read_inputs(body, address)
        return None if values is None else self._of_row(values, here, self._tell_v2)

    def read_inputs(self, body: bytes, address: Segment | None) -> Values | None:
        """Return the row of a request with one input a field, None for the general way."""
        inputs = _decode_inputs(body).inputs
        if may_repeat(body, 1 + 4 * len(inputs)):
            return None
        row: dict[str, Any] = {}
        for tensor in inputs:
            column = self._parser.columns.get(tensor.name)
            if column is None or tensor.shape not in _ONE or len(tensor.data) != 1:
                return None
            family = protocol.family_of(tensor.datatype)
            if tensor.datatype not in protocol.DATATYPES or family not in protocol.FAMILIES[column.kind]:
                return None
            if type(tensor.data[0]) not in _TYPES[family]:
                return None
            row[tensor.name] = tensor.data[0]
        values = self._parser.convert_one(row, address)
        return values if len(row) == len(inputs) else None

    def _tell_v2(self, choice: Choice, found: list[float]) -> bytes:
        first, between, last = choice.v2
        if not self._labels:
            return b"%b%b%b" % (first, _encode(found), last)
        return b"%b%b%b%b%b" % (first, self._label_texts[found.index(max(found))], between, _encode(found), last)

    # ---------------------------------------------------------------- what answers

    def choice_at(self, address: Segment | None) -> Choice | None:
        """Return what answers for the segment in an address, or for a model without segments; None where rows say it."""
        if address is None and self._parser.by:
            return None
        try:
            return self._choose(address or ())
        except ModelmillError:
            return None

    def _find_choice(self, segment: Segment) -> Choice:
        """Return what answers for a segment; raises what `ServedModel` does where there is nothing."""
        side = self._model.side_at(segment)
        entry, why = side.entry_for(segment)
        if entry.state == SAFE or (why and side.map.beyond):
            # No model's answer, which is counted otherwise; or that of a level of which only the row can tell the value.
            raise side.map.unknown(segment)
        model = side.open_here(entry)
        before = open_program(model.programs.before) if model.programs.before else None
        told = self._named_pieces(segment, entry, why), self._v2_pieces(side.header.run, kind_of(entry, why))
        logged = as_logged(side.answerer(segment, entry, why))
        return Choice(segment, model, before, *told, self._meters.of(side.place_of(segment, why)), logged, self._share)

    def _named_pieces(self, segment: Segment, entry: Entry, why: str) -> tuple[bytes, ...]:
        header = self._model.header
        told = {"model": header.model, "segment": format_segment(segment), "version": entry.number}
        told["answered_by"] = entry.answers_as(segment)
        end = b"," + _encode(told | ({"why": why} if why else {}))[1:]
        first = b"{%b:" % _encode(header.spec.target.name)
        if not self._labels:
            return first, end
        names = [b"%b:" % text for text in self._label_texts]
        opened = b',"probabilities":{' + names[0]
        return first, opened, *(b"," + name for name in names[1:]), b"}" + end

    def _v2_pieces(self, run: int, kind: str) -> tuple[bytes, bytes, bytes]:
        header = self._model.header
        about = _encode(header.model), _encode(str(run)), _encode(header.spec.target.name)
        first = b'{"model_name":%b,"model_version":%b,"outputs":[{"name":%b,"datatype":' % about
        last = b'}],"parameters":%b}' % _encode(told_of({kind: 1} if kind else {}))
        if not self._labels:
            return first + b'"FP64","shape":[1],"data":', b"", last
        between = b']},{"name":"probabilities","datatype":"FP64","shape":[1,%d],"data":' % len(self._labels)
        return first + b'"BYTES","shape":[1],"data":[', between, last


class SplitQuick:
    """Answers single rows of one model where two releases share its requests: which of them, the row says."""

    def __init__(self, split: Split, meters: Meters, share: float) -> None:
        """Take both, all of whose entries are packed."""
        self._split = split
        self._of = {side: Quick(side, meters, share) for side in split.sides}
        self._reader = self._of[split.stable]

    def predict(self, body: bytes, address: Segment | None, _: Choice | None) -> Found | None:
        """Return the answer to one object of named fields, None for the general way."""
        try:
            values = self._split.parser.read_one(body, address)
        except _LEFT_TO_THE_GENERAL_WAY:
            return None
        return None if values is None else self._answer(values, v2=False)

    def infer(self, body: bytes, address: Segment | None, _: Choice | None) -> Found | None:
        """Return the reply to an inference request for one row of named inputs, None for the general way."""
        try:
            values = self._reader.read_inputs(body, address)
        except _LEFT_TO_THE_GENERAL_WAY:
            return None
        return None if values is None else self._answer(values, v2=True)

    def _answer(self, values: Values, *, v2: bool) -> Found | None:
        return self._of[self._split.side_of_values(values)].of_row(values, v2=v2)

    def choice_at(self, _: Segment | None) -> Choice | None:
        """Return None: an address alone does not say who answers."""
        return None
