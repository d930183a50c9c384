"""The least client of the API server that the harness itself needs. Standard library only."""

from __future__ import annotations

import base64
import ctypes
import http.client
import json
import os
import ssl
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Object = dict[str, Any]
CLONE_NEWNET = 0x40000000


class ApiError(Exception):
    """The API server refused; `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@contextmanager
def network_of(pid: int) -> Iterator[None]:
    """Be in another process's network namespace: this thread alone. What is opened there stays there."""
    libc = ctypes.CDLL(None, use_errno=True)
    own, other = (os.open(f"/proc/{whose}/ns/net", os.O_RDONLY) for whose in ("thread-self", pid))
    try:
        if libc.setns(other, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns of {pid}")
        yield
    finally:
        # Never to fail unheard: the thread would speak to the wrong network from now on.
        assert libc.setns(own, CLONE_NEWNET) == 0
        os.close(own)
        os.close(other)


class InsideConnection(http.client.HTTPSConnection):
    """A connection whose socket belongs to another process's network."""

    pid = 0

    def connect(self) -> None:
        with network_of(self.pid):
            super().connect()


class Api:
    """Requests with the client certificate of a kubeconfig, one kept connection a thread.

    `pid`: a process in whose network the server's address means something, if it means nothing in ours.
    """

    def __init__(self, kubeconfig: Path, pid: int | None = None) -> None:
        self.pid = pid
        document = json.loads(kubeconfig.read_text())
        cluster = document["clusters"][0]["cluster"]
        user = document["users"][0]["user"]
        self.server = urllib.parse.urlsplit(cluster["server"])
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.context = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as file:
            file.write(base64.b64decode(user["client-certificate-data"]))
            file.write(base64.b64decode(user["client-key-data"]))
            file.flush()
            self.context.load_cert_chain(file.name)
        self.local = threading.local()

    def request(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json"
    ) -> Object:
        """Send one request and give the answer. A kept connection that has died is opened again once."""
        try:
            return self._request(method, path, body, content_type)
        except (http.client.HTTPException, ConnectionError):
            self.local.connection = None
            return self._request(method, path, body, content_type)

    def _request(self, method: str, path: str, body: Object | None, content_type: str) -> Object:
        connection = getattr(self.local, "connection", None) or self.connect(timeout=30)
        self.local.connection = connection
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        content = response.read()
        if response.status >= 300:
            # A Status object, or plain text where the server is too busy even for that.
            raise ApiError(response.status, content.decode(errors="replace")[:1000])
        answer: Object = json.loads(content or b"{}")
        return answer

    def merge(self, path: str, body: Object) -> Object:
        return self.request("PATCH", path, body, "application/merge-patch+json")

    def watch(
        self, path: str, listed: Callable[[Object], None] = lambda _: None, **query: str
    ) -> Iterator[tuple[str, Object]]:
        """One list, which `listed` hears of, and one watch: (type, object) until the server ends it."""
        found = self.request("GET", f"{path}?{urllib.parse.urlencode(query)}")
        listed(found)
        for item in found.get("items", []):
            yield "ADDED", item
        version = found["metadata"]["resourceVersion"]
        query = {**query, "watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
        connection = self.connect(timeout=None)
        try:
            connection.request("GET", f"{path}?{urllib.parse.urlencode(query)}")
            response = connection.getresponse()
            if response.status >= 300:
                raise ApiError(response.status, response.read().decode(errors="replace"))
            for line in response:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                if event["type"] != "BOOKMARK":
                    yield event["type"], event["object"]
        finally:
            connection.close()

    def connect(self, timeout: float | None) -> http.client.HTTPSConnection:
        host, port = self.server.hostname, self.server.port
        assert host
        if self.pid:
            inside = InsideConnection(host, port, context=self.context, timeout=timeout)
            inside.pid = self.pid
            return inside
        return http.client.HTTPSConnection(host, port, context=self.context, timeout=timeout)
