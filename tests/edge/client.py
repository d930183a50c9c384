"""A running edge as its clients see it: requests, raw bytes, and what its logs tell."""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import httpx

PATIENCE_SECONDS = 60
USER, PASSWORD = "alice", "canary-password-7f3a"
ALICE = (USER, PASSWORD)


def loopback() -> Iterator[str]:
    """Client addresses on this machine that nobody has used."""
    return (f"127.1.{n >> 8}.{n & 255}" for n in itertools.count(1))


@dataclass
class Edge:
    """A running edge in front of a real worker, as its clients see it."""

    name: str
    address: str
    https_port: int
    http_port: int
    # The certificate authority that signed the hosts' certificates.
    ca: Path
    # What SERVICES lists, by the host that it is published under.
    hosts: Mapping[str, str]
    # An honest token of the issuer; with exp=1 an expired one.
    token: Callable[..., str]
    # The access logs as they are now. Every line of ours carries a path or an agent of its own.
    edge_log: Callable[[], str]
    worker_log: Callable[[], str]
    # A figure of the worker that serves "any", from its management port.
    metric: Callable[[str], float]
    # Addresses to connect from: fresh ones, and one that `narrow` admits. None: whatever the kernel takes.
    sources: Iterator[str | None] = field(default_factory=loopback)
    inside: str | None = "127.7.0.1"
    # What only some do, and harms nobody: a path is answered by a redirect to itself without its tricks, with this
    # status; a header whose name has an underscore is refused (400), and the whole request with it.
    redirects: frozenset[int] = frozenset({301, 308})
    refuses_underscores: bool = False

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))

    def client(self, source: str | None = None) -> httpx.Client:
        """A client at an address of its own."""
        transport = httpx.HTTPTransport(verify=self.context(), local_address=source or next(self.sources))
        return httpx.Client(transport=transport, timeout=PATIENCE_SECONDS)

    def url(self, path: str) -> str:
        return f"https://{self.address}:{self.https_port}{path}"

    def about(self, service: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """What makes a request one for the host of `service`."""
        host = self.hosts[service]
        return {"headers": {"Host": host, **(headers or {})}, "extensions": {"sni_hostname": host}}

    def ask(
        self,
        service: str,
        path: str = "/v1/models",
        *,
        method: str = "GET",
        auth: Any = None,
        bearer: str = "",
        source: str | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        """One request on a connection of its own."""
        told = {**({"Authorization": f"Bearer {bearer}"} if bearer else {}), **(headers or {})}
        with self.client(source) as client:
            return client.request(method, self.url(path), auth=auth, **self.about(service, told), **options)

    def connect(self, service: str, source: str | None = None) -> ssl.SSLSocket:
        """A TLS connection to the host of `service`, for bytes that no client would send."""
        raw = socket.create_connection(
            (self.address, self.https_port), PATIENCE_SECONDS, ((source or next(self.sources)) or "", 0)
        )
        return self.context().wrap_socket(raw, server_hostname=self.hosts[service])


def serial(edge: Edge) -> str:
    """Which certificate it shows."""
    raw = socket.create_connection((edge.address, edge.https_port), 60)
    with edge.context().wrap_socket(raw, server_hostname=edge.hosts["basic"]) as wrapped:
        return str((wrapped.getpeercert() or {})["serialNumber"])


def asking(edge: Edge, stop: Event) -> Iterator[int]:
    """One request after the other until told to stop."""
    while not stop.is_set():
        yield edge.ask("basic", auth=ALICE).status_code


def giver(answer: httpx.Response) -> str:
    """Who wrote an answer: the worker names every request that it sees."""
    return "worker" if "x-request-id" in answer.headers else "edge"


def eventually(what: Callable[[], Any], message: str) -> Any:
    """Wait until `what` gives something true; an edge that is not there yet is no answer."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        with contextlib.suppress(httpx.TransportError):
            if found := what():
                return found
        assert time.monotonic() < until, f"not within {PATIENCE_SECONDS} s: {message}"
        time.sleep(0.05)


# nginx's: $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer"
# "$http_user_agent" $request_time. Traefik's `common` has three fields of its own before the time,
# which it writes in milliseconds, as Envoy does.
COMMON = re.compile(
    r'(?P<address>\S+) - (?P<user>\S+) \[(?P<time>[^]]+)\] "(?P<request>[^"]*)" (?P<status>\d+) (?P<bytes>\d+) '
    r'"(?P<referer>[^"]*)" "(?P<agent>[^"]*)" (?:(?:\d+ "[^"]*" "[^"]*" )?(?P<ms>\d+)ms|(?P<s>[\d.]+))'
)


def logged(line: str) -> dict[str, str]:
    """The fields of a line of an access log."""
    found = COMMON.match(line)
    assert found, f"not a line of the seed's fields: {line}"
    fields = {key: value or "" for key, value in found.groupdict().items()}
    return {**fields, "seconds": fields["s"] or str(int(fields["ms"]) / 1000)}


@dataclass(frozen=True)
class Answer:
    """One response off the wire."""

    status: int
    head: bytes
    body: bytes


def host(edge: Edge, service: str) -> bytes:
    return edge.hosts[service].encode()


def basic(pair: tuple[str, str]) -> bytes:
    return b"Basic " + base64.b64encode(":".join(pair).encode())


def raw_request(edge: Edge, service: str, head: bytes) -> Answer:
    """Send a head as it is, and read one answer to the end of the connection."""
    with edge.connect(service) as raw:
        raw.sendall(head + b"Connection: close\r\n\r\n")
        data = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
            while part := raw.recv(65536):
                data += part
    told, _, body = data.partition(b"\r\n\r\n")
    return Answer(int(told.split(b" ", 2)[1]) if told.startswith(b"HTTP/") else 400, told, body)
