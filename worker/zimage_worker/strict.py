"""h11, stricter: what two readers could read differently is refused (docs/decisions/0140)."""

from __future__ import annotations

from typing import Any

import h11

HEADER_MAX_BYTES = 16 * 1024
# Browsers send twenty, proxies add ten.
HEADER_MAX_FIELDS = 100
TARGET_MAX_BYTES = 4 * 1024


class StrictConnection(h11.Connection):
    """h11 refuses most of what is ambiguous; this refuses the rest."""

    def next_event(self) -> Any:
        """As h11's.

        Raises:
            h11.RemoteProtocolError: also for a header that two readers could read differently, or a huge one.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            refuse_ambiguous(event)
        return event


def refuse_ambiguous(request: h11.Request) -> None:
    """h11 takes these, and the proxy in front of us may take them otherwise.

    Raises:
        h11.RemoteProtocolError: with the status as its hint.
    """
    names = [name for name, _ in request.headers]
    if len(request.target) > TARGET_MAX_BYTES:
        raise h11.RemoteProtocolError("long target", error_status_hint=414)
    # h11's own limit is for headers that are not complete yet; one read can bring 256 KiB.
    if len(names) > HEADER_MAX_FIELDS or sum(map(len, (part for pair in request.headers for part in pair))) > (
        HEADER_MAX_BYTES
    ):
        raise h11.RemoteProtocolError("long header", error_status_hint=431)
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version != b"1.1"):
        raise h11.RemoteProtocolError("two lengths")
    # h11 takes any version; the first line of HTTP/2 is no request of ours.
    if not request.http_version.startswith(b"1."):
        raise h11.RemoteProtocolError("not HTTP/1")
    if request.method == b"CONNECT" or not (request.target.startswith(b"/") or request.target == b"*"):
        raise h11.RemoteProtocolError("not the origin form: this is no proxy")
