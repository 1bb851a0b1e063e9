"""From a verb to a command: its input struct says the arguments and options, its output struct is printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import click
import msgspec

from modelmill.api.verbs import Verb
from modelmill.cli.running import Flags, run_verb

_FLAGS = (
    click.Option(["--json", "as_json"], is_flag=True, help="Answer as JSON."),
    click.Option(["--trace"], is_flag=True, help="Show whole tracebacks."),
    click.Option(["--project"], metavar="DIR", help="The project; found at or above this folder if left out."),
    click.Option(["--store"], metavar="DIR", help="Where everything is kept, instead of modelmill.toml's."),
)


def command_of(verb: Verb) -> click.Command:
    """Return the command that calls a verb."""
    return click.Command(
        verb.name.rpartition(" ")[2],
        callback=_callback(verb),
        params=[*_parameters(verb), *_FLAGS],
        help="\n\n".join([verb.summary, *_argument_texts(verb), *_example_text(verb)]),
        short_help=verb.summary,
    )


def _callback(verb: Verb) -> Callable[..., int]:
    def callback(*, as_json: bool, trace: bool, project: str | None, store: str | None, **options: Any) -> int:
        given = {name: value for name, value in options.items() if value is not None}
        return run_verb(verb, Flags(as_json, trace, project, store), given)

    return callback


def _argument_texts(verb: Verb) -> Iterator[str]:
    """Yield a paragraph for each argument: click itself explains options only."""
    hints = get_type_hints(verb.input, include_extras=True)
    for name, meta in ((name, _meta(hint)) for name, hint in hints.items()):
        if (meta.extra or {}).get("argument"):
            yield f"{(meta.extra or {}).get('metavar') or name.upper()}: {meta.description}"


def _example_text(verb: Verb) -> Iterator[str]:
    # \b keeps click from rewrapping the lines that follow.
    if verb.examples:
        yield "\n".join(["\b", "Examples:", *(f"  {example}" for example in verb.examples)])


def _parameters(verb: Verb) -> Iterator[click.Parameter]:
    hints = get_type_hints(verb.input, include_extras=True)
    for field in msgspec.structs.fields(verb.input):
        meta = _meta(hints[field.name])
        extra = meta.extra or {}
        if extra.get("hidden"):
            continue
        yield _parameter(field, hints[field.name], meta.description or "", extra)


def _parameter(field: msgspec.structs.FieldInfo, hint: Any, text: str, extra: dict[str, Any]) -> click.Parameter:
    kind = _plain(hint)
    many = get_origin(kind) is tuple
    shape: dict[str, Any] = {"type": _click_type(str if many else kind, extra), "metavar": extra.get("metavar")}
    if extra.get("argument"):
        return click.Argument([field.name], required=False, nargs=-1 if many else 1, **shape)
    names = [extra.get("option") or f"--{field.name.replace('_', '-')}", field.name]
    if kind is bool:
        return click.Option(names, is_flag=True, help=text)
    return click.Option(names, multiple=many, help=text, **shape)


def _click_type(kind: Any, extra: dict[str, Any]) -> click.ParamType[Any, Any]:
    if extra.get("path"):
        return click.Path()
    kinds: dict[Any, click.ParamType[Any, Any]] = {int: click.INT, float: click.FLOAT}
    return kinds.get(kind, click.STRING)


def _meta(hint: Any) -> msgspec.Meta:
    found = [part for part in get_args(hint)[1:] if isinstance(part, msgspec.Meta)] if _annotated(hint) else []
    return found[0] if found else msgspec.Meta()


def _plain(hint: Any) -> Any:
    """Return ``int`` for ``Annotated[Annotated[int, ...] | None, ...]``."""
    if _annotated(hint):
        return _plain(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return _plain(next(part for part in get_args(hint) if part is not type(None)))
    return hint


def _annotated(hint: Any) -> bool:
    return get_origin(hint) is Annotated
