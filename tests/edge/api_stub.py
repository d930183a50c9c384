"""What an edge asks an API server for: lists and watches of the objects that it was given, and nothing else.

A stand-in, because a real API server takes no loopback addresses in EndpointSlices, and on loopback the tests
have to stay. That a real one takes the same objects is tested in tests/operator (goldens, test_edges.py).
"""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from zimage_operator.kinds import BY_NAME, SECRETS

Item = dict[str, Any]
PLURALS = {kind.name: kind.plural for kind in (*BY_NAME.values(), SECRETS)} | {
    "EndpointSlice": "endpointslices",
    "Namespace": "namespaces",
}
VERSION = {"major": "1", "minor": "37", "gitVersion": "v1.37.2"}


class ApiStub:
    """The objects, and everybody who watches them."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str, str], Item] = {}
        self.watchers: list[tuple[str, queue.SimpleQueue[Item]]] = []
        # What controllers wrote into the statuses: by plural, namespace and name.
        self.statuses: dict[tuple[str, str, str], Item] = {}
        self.version, self.lock = 1, Lock()

    def apply(self, *items: Item) -> None:
        """Write objects as they are, and tell of it."""
        with self.lock:
            for item in items:
                head = item["metadata"]
                key = (PLURALS[item["kind"]], head.get("namespace", ""), head["name"])
                self.version += 1
                kind = "MODIFIED" if key in self.items else "ADDED"
                uid = "-".join(key)
                self.items[key] = {**item, "metadata": {**head, "uid": uid, "resourceVersion": str(self.version)}}
                self.tell(key[0], {"type": kind, "object": self.items[key]})

    def delete(self, kind: str, namespace: str, name: str) -> None:
        with self.lock:
            item = self.items.pop((PLURALS[kind], namespace, name))
            self.tell(PLURALS[kind], {"type": "DELETED", "object": item})

    def tell(self, plural: str, event: Item) -> None:
        for watched, events in self.watchers:
            if watched == plural:
                events.put(event)

    def list(self, plural: str) -> Item:
        with self.lock:
            found = [item for key, item in self.items.items() if key[0] == plural]
            # No kind: the client knows what it has asked for.
            return {"metadata": {"resourceVersion": str(self.version)}, "items": found}

    @contextmanager
    def watch(self, plural: str, since: int) -> Iterator[queue.SimpleQueue[Item]]:
        events: queue.SimpleQueue[Item] = queue.SimpleQueue()
        with self.lock:
            for key, item in self.items.items():
                if key[0] == plural and int(item["metadata"]["resourceVersion"]) > since:
                    events.put({"type": "ADDED", "object": item})
            self.watchers.append((plural, events))
        try:
            yield events
        finally:
            with self.lock:
                self.watchers.remove((plural, events))


def handler(stub: ApiStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts, query = urlsplit(self.path), parse_qs(urlsplit(self.path).query)
            if parts.path == "/version":
                return self.answer(200, VERSION)
            if "sendInitialEvents" in query:
                return self.answer(422, {"kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid"})
            plural, namespace, name = place(parts.path)
            if query.get("watch") in (["true"], ["1"]):
                return self.stream(plural, int(query.get("resourceVersion", ["0"])[0] or 0))
            if not name:
                return self.answer(200, stub.list(plural))
            found = stub.items.get((plural, namespace, name))
            return self.answer(200, found) if found else self.answer(404, {"kind": "Status", "code": 404})

        def do_PUT(self) -> None:
            item = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            plural, namespace, name = place(self.path)
            stub.statuses[plural, namespace, name] = item.get("status") or {}
            self.answer(200, item)

        do_PATCH = do_POST = do_PUT

        def stream(self, plural: str, since: int) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with stub.watch(plural, since) as events:
                while (event := events.get()) is not None:
                    line = json.dumps(event).encode() + b"\n"
                    try:
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                    except OSError:
                        return

        def answer(self, code: int, body: Item) -> None:
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments: object) -> None:
            """Quiet."""

    return Handler


def place(path: str) -> tuple[str, str, str]:
    """Plural, namespace and name of a path such as /apis/apps/v1/namespaces/a/deployments/b/status."""
    parts = urlsplit(path).path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        return rest[2], rest[1], rest[3] if len(rest) > 3 else ""
    return rest[0] if rest else "", "", rest[1] if len(rest) > 1 else ""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # Every informer keeps a connection.
    request_queue_size = 128


@contextmanager
def serving(stub: ApiStub) -> Iterator[str]:
    """Serve it on loopback; gives its address."""
    server = Server(("127.0.0.1", 0), handler(stub))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
