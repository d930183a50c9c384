"""A Hub of our own: model info, tree, resolve with HEAD, GET and ranges, LFS on another host, and faults."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REPO = "tiny/Z-Image"
REVISION = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_canary0token0a81c"
# What the real one stores as LFS: everything large. Here: weights.
LFS = re.compile(r".*\.(safetensors|bin)$")


@dataclass
class Seen:
    """One request that arrived."""

    host: str
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Faults:
    """What goes wrong; every counter says how often."""

    statuses: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    # path → after how many bytes the connection ends, how often
    cuts: dict[str, list[int]] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    longer: set[str] = field(default_factory=set)
    bytes_per_second: float = 0
    no_ranges: bool = False
    no_digests: bool = False
    other_commit: bool = False
    private: bool = False
    gated: bool = False
    forbidden: bool = False
    nonsense: bool = False
    weights_on_cdn: bool = True


class Quiet(ThreadingHTTPServer):
    """A client that was killed is what some tests are about, not an error of theirs."""

    def handle_error(self, *_: Any) -> None:
        return


class HubServer:
    """Two addresses, on loopback by default: the hub, and the store that large files are redirected to."""

    def __init__(self, folder: Path, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.folder = folder
        self.faults = Faults()
        self.seen: list[Seen] = []
        # The same files under each.
        self.revisions = {REVISION}
        self.hub = self.listen("hub", address)
        self.cdn = self.listen("cdn")
        # Another name for another origin, as with a real CDN.
        self.url = f"http://127.0.0.1:{self.hub.server_port}"
        self.cdn_url = f"http://localhost:{self.cdn.server_port}"

    def listen(self, host: str, address: tuple[str, int] = ("127.0.0.1", 0)) -> ThreadingHTTPServer:
        server = Quiet(address, handler(self, host))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def close(self) -> None:
        for server in (self.hub, self.cdn):
            server.shutdown()
            server.server_close()

    def paths(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def content(self, path: str) -> bytes:
        content = (self.folder / path).read_bytes()
        if path in self.faults.wrong:
            return content[:-1] + bytes([content[-1] ^ 1])
        return content + b"more" if path in self.faults.longer else content

    def digests(self, path: str) -> dict[str, Any]:
        content = (self.folder / path).read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        answer: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": git}
        if LFS.match(path):
            sha = hashlib.sha256(content).hexdigest()
            answer["lfs"] = {"sha256": sha, "size": len(content), "pointerSize": 134}
        return answer

    def served(self, host: str, path: str, method: str = "GET") -> list[Seen]:
        return [seen for seen in self.seen if seen.host == host and path in seen.path and seen.method == method]


def branch(file: dict[str, Any]) -> dict[str, Any]:
    """A file as the tree's pages tell it: what the hub's own downloader reads."""
    lfs = {"lfs": {"oid": file["lfs"]["sha256"], **file["lfs"]}} if "lfs" in file else {}
    return {"type": "file", "path": file["rfilename"], "size": file["size"], "oid": file["blobId"], **lfs}


def handler(hub: HubServer, host: str) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def log_message(self, *_: Any) -> None:
            return

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.seen.append(Seen(host, self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
            if host == "cdn":
                return self.file(path.removeprefix("/lfs/"), {})
            for number, (part, status, headers) in enumerate(hub.faults.statuses):
                if part in path:
                    del hub.faults.statuses[number]
                    return self.refuse(status, headers)
            if refusal := self.stranger():
                return self.refuse(*refusal)
            return self.api(path) if path.startswith("/api/") else self.resolve(path)

        def stranger(self) -> tuple[int, dict[str, str]] | None:
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if hub.faults.private and not known:
                return 401, {"X-Error-Message": "Invalid username or password."}
            if hub.faults.gated:
                return 403, {"X-Error-Code": "GatedRepo"}
            return (403, {}) if hub.faults.forbidden else None

        def api(self, path: str) -> None:
            if hub.faults.nonsense:
                return self.answer(200, b"<html>captive portal</html>", {"Content-Type": "text/html"})
            found = re.fullmatch(r"/api/models/(.+?)/(revision|tree)/([^/]+)", path)
            if not found or found[1] != REPO:
                return self.refuse(404, {"X-Error-Code": "RepoNotFound"})
            commit = REVISION if found[3] == "main" else found[3]
            if commit not in hub.revisions:
                return self.refuse(404, {"X-Error-Code": "RevisionNotFound"})
            files = [hub.digests(path) for path in hub.paths()]
            if found[2] == "tree":
                return self.json([branch(each) for each in files])
            if hub.faults.no_digests:
                files = [{"rfilename": each["rfilename"]} for each in files]
            return self.json({"id": REPO, "sha": commit, "private": hub.faults.private, "siblings": files})

        def resolve(self, path: str) -> None:
            found = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path)
            if not found or found[1] != REPO or found[2] not in hub.revisions or found[3] not in hub.paths():
                return self.refuse(404, {"X-Error-Code": "EntryNotFound"})
            known = hub.digests(found[3])
            commit = "f" * 40 if hub.faults.other_commit else found[2]
            headers = {"X-Repo-Commit": commit, "ETag": f'"{known["blobId"]}"'}
            if "lfs" not in known or not hub.faults.weights_on_cdn:
                return self.file(found[3], headers)
            linked = {"X-Linked-Etag": f'"{known["lfs"]["sha256"]}"', "X-Linked-Size": str(known["size"])}
            # What the real one says about Xet: a client that speaks plain HTTP follows the redirect.
            linked |= {"X-Xet-Hash": known["lfs"]["sha256"], "X-Xet-Refresh-Route": "/xet"}
            return self.answer(302, b"", {**headers, **linked, "Location": f"{hub.cdn_url}/lfs/{found[3]}?signature=x"})

        def file(self, path: str, headers: dict[str, str]) -> None:
            content, first = hub.content(path), 0
            asked = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers.get("Range", ""))
            if not asked or hub.faults.no_ranges:
                return self.bytes(path, 200, content, headers)
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            if first >= len(content):
                return self.refuse(416, {})
            span = {"Content-Range": f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"}
            return self.bytes(path, 206, content[first : last + 1], {**headers, **span})

        def bytes(self, path: str, status: int, content: bytes, headers: dict[str, str]) -> None:
            if cuts := hub.faults.cuts.get(path):
                after = cuts.pop(0)
                self.answer(status, content, headers, stop=after)
                self.close_connection = True
            else:
                self.answer(status, content, headers)

        def json(self, document: Any) -> None:
            self.answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

        def refuse(self, status: int, headers: dict[str, str]) -> None:
            self.answer(status, json.dumps({"error": "canary-body"}).encode(), headers)

        def answer(self, status: int, content: bytes, headers: dict[str, str], stop: int | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            # Heads of files are small and asked for before; slow is what takes long anyway.
            whole = not re.fullmatch(r"bytes=[0-9]+-[0-9]+", self.headers.get("Range", ""))
            pace = int(hub.faults.bytes_per_second / 20) if whole else 0
            content = content[:stop]
            try:
                for begin in range(0, len(content), pace or max(len(content), 1)):
                    self.wfile.write(content[begin : begin + (pace or len(content))])
                    time.sleep(0.05 if pace else 0)
            except OSError:
                # The client left: that is what some tests are about.
                self.close_connection = True

    return Answer


# What `python hub.py FOLDER` serves beside each other, in a pod of a test's.
OTHER = "fedcba9876543210fedcba9876543210fedcba98"
PORTS = {"good": 8080, "slow": 8081, "private": 8082, "wrong": 8083}
# Longer than any test looks at it.
SLOW_SECONDS = 3600


def main(folder: Path) -> None:
    """Serve one folder as four hubs, each with its own fault, until killed."""
    hubs = {name: HubServer(folder, ("", port)) for name, port in PORTS.items()}
    weights = [path for path in hubs["good"].paths() if LFS.match(path)]
    for hub in hubs.values():
        hub.revisions = {REVISION, OTHER}
        hub.faults.weights_on_cdn = False
    hubs["slow"].faults.bytes_per_second = sum((folder / path).stat().st_size for path in weights) / SLOW_SECONDS
    hubs["private"].faults.private = True
    hubs["wrong"].faults.wrong = set(weights)
    print("serving", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
