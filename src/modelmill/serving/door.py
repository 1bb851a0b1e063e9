"""Who may ask a node: whoever has its token - or, where it has none, whoever is on this machine and means it.

A page in a browser may reach a node of its own machine under a name of its author's that suddenly stands for 127.0.0.1
(DNS rebinding). Such a name has a dot, and is in the header `Host`; addresses and names of one word are nobody's.
"""

from __future__ import annotations

import ipaddress
from hmac import compare_digest

from modelmill.errors import HostRefused, TokenRefused
from modelmill.serving.calls import Call

_OPEN = frozenset({b"/v2/health/live", b"/v2/health/ready"})
"""Addresses that need no token: a load balancer has none."""


class Door:
    """Lets requests in."""

    def __init__(self, token: bytes = b"", name: str = "") -> None:
        """Take the token that requests must carry, and a name under which they may come where there is none."""
        self._authorization = b"Bearer " + token if token else b""
        self._name = name.lower()

    def check(self, call: Call) -> None:
        """Raise `TokenRefused` or `HostRefused` for a request that may not come in."""
        if call.is_let_in:
            return
        if not self._authorization:
            self._check_host(call)
        elif call.path not in _OPEN and not self._has_token(call):
            raise TokenRefused("this node asks for its token", expected="the header `Authorization: Bearer TOKEN`")

    def _has_token(self, call: Call) -> bool:
        given = call.header(b"authorization")
        return given is not None and compare_digest(given, self._authorization)

    def _check_host(self, call: Call) -> None:
        host = (call.header(b"host") or b"").decode("latin-1").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if "." in name and name != self._name and not _is_address(name):
            raise HostRefused(
                f"this node does not answer under the name `{name[:120]}`",
                expected="localhost, or its address",
                next=f'[serve] name = "{name[:120]}" in modelmill.toml, if a proxy asks for you',
            )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
