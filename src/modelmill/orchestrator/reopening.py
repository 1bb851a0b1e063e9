"""The clean process of `check`: it opens a saved model and prints its answers as hexadecimal digits."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np

from modelmill.model.artifact import decode
from modelmill.model.fitted import answer
from modelmill.model.loading import load_model_file
from modelmill.model.rows import Rows
from modelmill.names import POOLED


def main() -> None:
    """Answer the rows in the file that is named on the command line."""
    saved = msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes())
    model = load_model_file(Path(saved["file"]), Path(saved["root"])).models[saved["model"]]
    x = np.frombuffer(saved["x"]).reshape(saved["shape"])
    fitted = decode(saved["format"], saved["artifact"])
    answers = answer(fitted, model.role("predict"), len(model.labels), x, Rows({}, len(x)), POOLED)
    print(np.asarray(answers, dtype="<f8").tobytes().hex())


if __name__ == "__main__":
    main()
