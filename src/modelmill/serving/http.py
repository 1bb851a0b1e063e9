"""Uvicorn's HTTP protocol, with the one refusal that no application sees told in JSON like all others."""

from __future__ import annotations

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from modelmill.errors import BodyUnreadable

_HEAD = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"


class HttpProtocol(HttpToolsProtocol):
    """Speaks HTTP/1.1 on one connection."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, such as an impossible content-length, and close."""
        body = msgspec.json.encode(BodyUnreadable("this is not a valid HTTP request", got=msg).as_dict())
        self.transport.write(_HEAD % len(body) + body)
        self.transport.close()
