"""The clean process of `check`: it opens a saved model and prints its answers to the golden rows, as JSON."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from modelmill.artifact.saving import decode
from modelmill.model.fitted import answer, column_array, make_x
from modelmill.model.loading import load_model_file
from modelmill.model.rows import Rows


def main() -> None:
    """Answer the rows in the file that is named on the command line."""
    saved = msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes())
    model = load_model_file(Path(saved["file"]), Path(saved["root"])).models[saved["model"]]
    golden = msgspec.msgpack.decode(saved["extras"])
    rows = Rows({name: column_array(model.spec.column(name), values) for name, values in golden["rows"].items()})
    x = make_x(model.role("features"), model.spec, rows)
    fitted = decode(saved["format"], saved["artifact"])
    answers = answer(fitted, model.role("predict"), len(model.labels), x, rows, tuple(saved["segment"]))
    print(msgspec.json.encode(answers.tolist()).decode())


if __name__ == "__main__":
    main()
