"""Tests of the data: the @check functions of a model file, asked of the rows of every snapshot before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from modelmill.errors import CheckFailed, ModelmillError, UserCodeFailed
from modelmill.model.loading import user_frames
from modelmill.model.roles import RoleFunction

_UNCHANGED = "no snapshot was made; everything that is served is unchanged"


def ask_checks(checks: Mapping[str, RoleFunction], rows: pl.DataFrame, root: Path, source: str = "") -> None:
    """Ask every check of checked rows; raises `CheckFailed` for the first that does not hold.

    A function gets a polars frame, or a pandas one where its annotation asks for that.
    """
    for name, function in checks.items():
        try:
            ask_check(function, rows)
        except ModelmillError:
            raise
        except AssertionError as error:
            raise CheckFailed(
                f"check failed: {name}",
                where="\n".join(user_frames(error, root)) or function.where,
                got=f"{str(error)[:300]}   {source}, {len(rows):,} rows".strip(),
                next="correct the rows at the source, or what the check expects",
                safe=_UNCHANGED,
            ) from error
        except Exception as error:
            raise UserCodeFailed(
                f"@check {name} raised {type(error).__name__}: {error}",
                where="\n".join(user_frames(error, root)) or function.where,
                safe=_UNCHANGED,
            ) from error


def ask_check(function: RoleFunction, rows: pl.DataFrame) -> None:
    """Call one check; what it raises is its verdict."""
    given = rows.to_pandas() if function.frames.get("rows") == "pandas" else rows
    function.call({"rows": given})
