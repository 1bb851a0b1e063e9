"""What several requests share."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

File = Annotated[
    str | None,
    Meta(
        description="The model file; may be left out where the project has one.",
        extra={"argument": True, "path": True},
    ),
]


ModelOption = Annotated[str | None, Meta(description="Which model, where the file declares several.")]


AtLeastOne = Annotated[int, Meta(ge=1)]


Port = Annotated[int, Meta(ge=0, le=65535)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a verb is asked."""


Environment = Annotated[
    str,
    Meta(
        description="The environment, as modelmill.toml declares it.",
        extra={"argument": True, "metavar": "ENVIRONMENT"},
    ),
]


EnvironmentOption = Annotated[
    str, Meta(description="Which environment; dev if left out.", extra={"option": "--env", "metavar": "ENVIRONMENT"})
]


ReasonOption = Annotated[str, Meta(description="Why, for whoever looks at the history.", extra={"metavar": "TEXT"})]
