"""`adopt`: a model that is finished becomes a model file that runs like any other.

What is written can be read and edited: the schema that the sample suggests, the file that was adopted, and one line that opens
it. Nothing is written before the model was opened in a process of its own and has answered the sample.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import polars as pl

from modelmill.data.inferring import Guessed, imports_of, infer_columns, schema_source
from modelmill.data.sources import read_table
from modelmill.errors import AdoptionFailed, ModelmillError, TrustNeeded, UsageError
from modelmill.model.columns import Column
from modelmill.names import digest_of, parse_model_name
from modelmill.orchestrator.checking import check
from modelmill.orchestrator.foreign import FUNCTION, JOBLIB, LIGHTGBM, ONNX, PICKLE, SKOPS, XGBOOST, Found, Question
from modelmill.orchestrator.inferring import write_new
from modelmill.outcomes import AdoptOutcome, Progress, no_progress
from modelmill.requests import AdoptRequest, CheckRequest
from modelmill.settings import FILE_NAME, Settings, load_settings

_KINDS = {
    ".pkl": PICKLE,
    ".pickle": PICKLE,
    ".joblib": JOBLIB,
    ".skops": SKOPS,
    ".txt": LIGHTGBM,
    ".lgb": LIGHTGBM,
    ".json": XGBOOST,
    ".ubj": XGBOOST,
    ".onnx": ONNX,
}
_NO_MODELS = {
    ".safetensors": "holds weights without the network that they belong to",
    ".pt": "is a pickle of torch's own, or weights alone",
    ".pth": "is a pickle of torch's own, or weights alone",
}
"""What is refused by its ending, unread: the network has to come with it."""
_FOLDER = "adopted"
_MOST_VALUES = 1000
"""What the model was fitted on as text has to stay text, however many values there are."""
_PATIENCE_S = 300
_OPENS = {
    PICKLE: ("import pickle", "pickle.loads((HERE / FILE).read_bytes())"),
    JOBLIB: ("import joblib", "joblib.load(HERE / FILE)"),
    SKOPS: ("import skops.io", "skops.io.load(HERE / FILE, trusted={types})"),
    LIGHTGBM: ("import lightgbm", "lightgbm.Booster(model_file=str(HERE / FILE))"),
}


def adopt(settings: Settings, request: AdoptRequest, progress: Progress = no_progress) -> AdoptOutcome:
    """Open a finished model, ask it a sample, and write the model file that serves it."""
    began = time.monotonic()
    adoption = _Adoption(settings, request)
    adoption.check_trust()
    progress("line", {"text": f"opening {adoption.source} in a process of its own"})
    found = adoption.look()
    guessed = adoption.guess(found)
    written = adoption.write(found, guessed)
    progress("line", {"text": f"checking {written[0]}"})
    try:
        checked = check(load_settings(settings.root), CheckRequest(file=written[0], model=adoption.name), progress)
    except ModelmillError:
        adoption.take_back(written)
        raise
    return AdoptOutcome(
        model=adoption.name,
        what=found.what,
        written=tuple(written),
        columns=len(guessed),
        rows=len(adoption.sample),
        trusted=adoption.trusted,
        steps=checked.steps,
        comparison=checked.comparison,
        notices=tuple(adoption.notices(guessed)),
        seconds=time.monotonic() - began,
        next=f"modelmill up {written[0]}",
    )


class _Adoption:
    """One call of the verb: what is adopted, from what sample, and under which name."""

    def __init__(self, settings: Settings, request: AdoptRequest) -> None:
        if request.source is None or request.sample is None or request.target is None:
            raise UsageError(
                "a model, a sample and the sample's target are needed",
                next="modelmill adopt MODEL_FILE --sample rows.csv --target COLUMN",
            )
        self.root, self.request, self.source = settings.root, request, request.source
        self.kind, self.path = self._kind()
        self.strange = False
        """Whether it holds types that nobody knows to be harmless."""
        self.name = parse_model_name(request.name or _name_of(self.source))
        self.file = f"{self.name.replace('-', '_')}.py"
        self.sample_path = Path(request.sample).resolve()
        self.sample = read_table(self.sample_path)
        self.target = request.target
        if self.target not in self.sample.columns:
            raise UsageError(f"the sample has no column `{self.target}`", got=", ".join(self.sample.columns))
        if (self.root / self.file).exists():
            raise UsageError(
                f"`{self.file}` is there already", next=f"modelmill adopt {self.source} ... --name ANOTHER"
            )

    def _kind(self) -> tuple[str, Path | None]:
        """Return what kind of model this is, and its file where it is one."""
        path = Path(self.source).resolve()
        if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.source) and not path.exists():
            return FUNCTION, None
        if not path.is_file():
            raise UsageError(f"there is no file `{self.source}`", expected=f"{', '.join(_KINDS)}, or module:function")
        ending = path.suffix.lower()
        if ending not in _KINDS:
            what = _NO_MODELS.get(ending)
            raise AdoptionFailed(
                f"`{path.name}` {what or 'is no known kind of model'}",
                where=str(path),
                expected=f"{', '.join(_KINDS)}, or module:function",
                next="export the network to .onnx where it was made, or return it from the train() of a model file"
                if what
                else "load it where it was made, and save it with joblib or in its library's own format",
            )
        return _KINDS[ending], path

    @property
    def trusted(self) -> bool:
        """Whether a person had to trust it: a pickle is a program, and a skops file may hold types that are."""
        return self.kind in (PICKLE, JOBLIB) or self.strange

    # ---------------------------------------------------------------- looking

    def check_trust(self) -> None:
        """Refuse a pickle that nobody has said may be opened."""
        if self.kind in (PICKLE, JOBLIB) and not self.request.i_trust_this:
            raise TrustNeeded(
                f"`{self.source}` is a pickle, and opening a pickle runs whatever its maker wrote into it",
                likely="no look at its bytes can tell a harmless one from one that takes over this machine",
                next=f"where you know who made it:  modelmill adopt {self.source} ... --i-trust-this",
                safe="it was not opened",
            )

    def look(self) -> Found:
        """Return what the model says of itself; it has answered the sample."""
        found = self._ask()
        self.strange = bool(found.types)
        if found.types and not self.request.i_trust_this:
            raise TrustNeeded(
                f"`{self.source}` holds types that skops does not know to be harmless",
                got=", ".join(found.types[:8]),
                next=f"where you know them:  modelmill adopt {self.source} ... --i-trust-this",
                safe="they were not opened",
            )
        if found.missing:
            raise AdoptionFailed(
                f"the sample lacks {len(found.missing)} of the columns that the model was fitted on",
                got=", ".join(found.missing[:8]),
                expected=", ".join(found.names[:20]),
                next="take a sample of the rows that it was fitted on, with the target",
                safe="nothing was written",
            )
        if found.broken:
            raise self._broken(found.broken)
        return found

    def _ask(self) -> Found:
        with tempfile.TemporaryDirectory() as folder:
            asked, answer, sample = (Path(folder) / name for name in ("question", "answer", "sample.parquet"))
            self.sample.drop(self.target).write_parquet(sample)
            place = str(self.path) if self.path else self.source
            question = Question(
                kind=self.kind,
                place=place,
                folder=str(self.root),
                sample=str(sample),
                trusted=self.request.i_trust_this,
            )
            asked.write_bytes(msgspec.json.encode(question))
            try:
                done = subprocess.run(  # noqa: S603 - our own module
                    [sys.executable, "-m", "modelmill.orchestrator.foreign", str(asked), str(answer)],
                    capture_output=True,
                    cwd=self.root,
                    timeout=_PATIENCE_S,
                    check=False,
                )
                return msgspec.json.decode(answer.read_bytes(), type=Found)
            except subprocess.TimeoutExpired as error:
                raise self._broken(f"it did not answer within {_PATIENCE_S} s") from error
            except (OSError, msgspec.DecodeError) as error:
                said = done.stderr.decode(errors="replace").strip().splitlines()
                raise self._broken(said[-1][:300] if said else f"it ended with {done.returncode}") from error

    def _broken(self, said: str) -> AdoptionFailed:
        return AdoptionFailed(
            f"`{self.source}` cannot be opened, or cannot answer the sample",
            got=said,
            likely="it is damaged, needs a package that is not installed here, or wants other columns",
            next="a sample of the rows that it was fitted on; the packages that it was made with",
            safe="nothing was written",
        )

    def _check_classes(self, found: Found) -> None:
        """Refuse a sample whose target is in other words than the model's."""
        held = self.sample[self.target].drop_nulls().cast(pl.String).unique().sort().to_list()
        unknown = [value for value in held if value not in found.classes]
        if unknown:
            raise AdoptionFailed(
                f"column `{self.target}` of the sample holds what is none of the model's classes",
                got=", ".join(unknown[:8]),
                expected=", ".join(found.classes[:8]),
                next="write the sample's target in the words that the model was fitted with",
                safe="nothing was written",
            )

    # ---------------------------------------------------------------- writing

    def guess(self, found: Found) -> list[Guessed]:
        """Return the columns that the model uses, in its order, and the target."""
        used = self.sample.select([*found.names, self.target])
        guessed = infer_columns(used, target=self.target, most_values=_MOST_VALUES)
        keys = [one.column.name for one in guessed if one.column.role == "key"]
        if keys:
            raise AdoptionFailed(
                f"column `{keys[0]}` holds more than {_MOST_VALUES:,} different texts",
                next="a model of free text is written by hand: modelmill init",
            )
        if not found.classes:
            return guessed
        self._check_classes(found)
        # A classifier's answers are in the order of its own classes, whatever the sample shows of them.
        label = Column(name=self.target, role="target", kind="category", values=found.classes)
        return [*guessed[:-1], Guessed(label, f"the model's {len(found.classes)} classes, in its order")]

    def write(self, found: Found, guessed: list[Guessed]) -> list[str]:
        """Write the model file, the adopted file and the sample; return their names in the project."""
        written = [self.file]
        folder = self.root / _FOLDER
        folder.mkdir(exist_ok=True)
        sample = f"{_FOLDER}/{self.name}-sample.parquet"
        adopted = f"{_FOLDER}/{self.path.name}" if self.path else ""
        try:
            write_new(self.root / self.file, self._source(found, guessed, adopted, sample))
            if self.path and self.path != (self.root / adopted).resolve():
                shutil.copyfile(self.path, self.root / adopted)
                written.append(adopted)
            self._typed_sample(found, guessed).write_parquet(self.root / sample)
            written.append(sample)
            if not (self.root / FILE_NAME).exists():
                write_new(self.root / FILE_NAME, f'model = "{self.file}"\n')
                written.append(FILE_NAME)
        except BaseException:
            self.take_back(written)
            raise
        return written

    def take_back(self, written: list[str]) -> None:
        """Remove what was written: a model that does not hold leaves nothing."""
        for name in written:
            (self.root / name).unlink(missing_ok=True)
        with suppress(OSError):  # it is not empty: what was adopted before stays
            (self.root / _FOLDER).rmdir()

    def _typed_sample(self, found: Found, guessed: list[Guessed]) -> pl.DataFrame:
        rows = self.sample.select([one.column.name for one in guessed])
        return rows.with_columns(pl.col(self.target).cast(pl.String)) if found.classes else rows

    def _source(self, found: Found, guessed: list[Guessed], adopted: str, sample: str) -> str:
        parts = [
            f'"""{self.name}: {found.what}, adopted from {Path(self.source).name}."""',
            "\n".join(self._imports(found, guessed)),
            "HERE = Path(__file__).parent" + (f'\nFILE = "{adopted}"{self._digest()}' if adopted else ""),
            f"\n{schema_source('Row', guessed)}\n",
            self._declaration(adopted) + "\n",
            f'@model.data\ndef rows(window: mm.Window) -> pl.DataFrame:\n    return pl.read_parquet(HERE / "{sample}")\n',
            "\n".join(["@model.train", "def opened(x, y):", *self._opening(found)]),
        ]
        if found.frame or self.kind == FUNCTION:
            parts.append("\n" + "\n".join(self._predict(found)))
        return "\n\n".join(parts) + "\n"

    def _digest(self) -> str:
        return f"  # SHA-256 {digest_of(self.path.read_bytes())}" if self.path else ""

    def _imports(self, found: Found, guessed: list[Guessed]) -> Iterator[str]:
        if moments := imports_of(guessed).strip():
            yield moments
        opens = _OPENS[self.kind][0] if self.kind in _OPENS else "import xgboost" if self.kind == XGBOOST else ""
        if self.kind == PICKLE:
            yield opens
        yield "from pathlib import Path"
        yield ""
        others = {
            "import polars as pl",
            opens if self.kind != PICKLE else "",
            "import pandas as pd" if found.frame else "",
        }
        yield from sorted(others - {""})
        if self.kind == FUNCTION:
            yield f"import {self.source.partition(':')[0]}"
        yield ""
        yield "import modelmill as mm"

    def _declaration(self, adopted: str) -> str:
        tags = {"adopted": Path(self.source).name, "trust": "by hand" if self.trusted else "format"}
        files = ", files=[FILE]" if adopted else ""
        return f'model = mm.Model("{self.name}", Row, tags={msgspec.json.encode(tags).decode()}{files})'

    def _opening(self, found: Found) -> Iterator[str]:
        if self.kind == FUNCTION:
            yield f'    return "{self.source}"  # nothing is fitted: the function below answers'
        elif self.kind == XGBOOST:
            yield f"    found = xgboost.{found.maker}()"
            yield "    found.load_model(HERE / FILE)"
            yield "    return found  # it is fitted already: the rows only test it"
        elif self.kind == ONNX:
            features = len(found.names)
            yield f"    return mm.open_onnx(HERE / FILE, {features})  # it is fitted already: the rows only test it"
        else:
            opens = _OPENS[self.kind][1].replace("{types}", repr(list(found.types)))
            yield f"    return {opens}  # it is fitted already: the rows only test it"

    def _predict(self, found: Found) -> Iterator[str]:
        yield "@model.predict"
        names = f"rows[{list(found.names)!r}]" if found.frame else "x"
        parameter = "rows: pd.DataFrame" if found.frame else "x"
        yield f"def answers(model, {parameter}):"
        if self.kind == FUNCTION:
            module, _, function = self.source.partition(":")
            yield f"    return {module}.{function}({names})"
        else:
            yield f"    return model.{'predict_proba' if found.classes else 'predict'}({names})"

    def notices(self, guessed: list[Guessed]) -> Iterator[str]:
        """Yield what a person would want to know."""
        used = {one.column.name for one in guessed}
        unused = [name for name in self.sample.columns if name not in used]
        if unused:
            yield f"not used by the model, and left out: {', '.join(unused[:8])}"
        if self.trusted:
            yield "it was opened because you trust it: its versions carry the tag trust=by hand"
        yield "the bounds in the schema are the sample's, a little wider: look at them, and write units and meanings"


def _name_of(source: str) -> str:
    """Return a model's name from its file or function."""
    stem = (
        source.rpartition(":")[2]
        if ":" in source and not Path(source).exists()
        else Path(source).name.partition(".")[0]
    )
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "adopted"
