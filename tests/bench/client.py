"""The least asynchronous client that can apply: what a bench compares the operator with."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from zimage_operator.kinds import BY_NAME

# As many as the operator's own session opens.
CONNECTIONS = 32
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class Client:
    """Requests with the token of a kubeconfig."""

    def __init__(self, kubeconfig: Path, ca_crt: Path) -> None:
        document = json.loads(kubeconfig.read_text())
        self.server = document["clusters"][0]["cluster"]["server"]
        self.headers = {"Authorization": f"Bearer {document['users'][0]['user']['token']}"}
        self.context = ssl.create_default_context(cafile=str(ca_crt))

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=self.context)
        self.session = aiohttp.ClientSession(connector=connector, headers=self.headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.close()

    async def send(self, verb: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """Send one request; anything but success is an error."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type}
        async with self.session.request(verb, self.server + path, data=data, headers=headers) as answer:
            text = await answer.text()
            if answer.status >= 300:
                raise RuntimeError(f"{verb} {path}: {answer.status} {text[:300]}")
            return json.loads(text)

    async def apply(self, item: dict[str, Any]) -> None:
        """Apply one object, as the operator does it."""
        head = item["metadata"]
        path = BY_NAME[item["kind"]].path(head["namespace"], head["name"])
        await self.send("PATCH", f"{path}?fieldManager=bench&force=true", item, APPLY)

    async def all(self, calls: Iterable[Awaitable[Any]]) -> None:
        """Wait for many; the session bounds how many are on their way."""
        await asyncio.gather(*calls)
