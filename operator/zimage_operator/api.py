"""The transport to the API server: authentication, retries, rate. The only file that imports kubernetes.

kubernetes.aio reads the configuration (in-cluster, or KUBECONFIG) and keeps the token fresh;
the requests themselves are plain aiohttp, four times cheaper than its generated client.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from kubernetes.aio import client, config
from yarl import URL

from . import metrics
from .errors import ClusterUnavailable, Conflict
from .kinds import Kind

# The API server's own Priority and Fairness decides (429, Retry-After), as for controller-runtime, which
# has no limit of its own since 0.21. This one is for a fault of ours: no server of ours took 700 a second.
REQUESTS_PER_SECOND = 1000.0
BURST = 1000.0
TRIES = 5
TIMEOUT_SECONDS = 30.0
PAGE = 500
MERGE_APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"


class Answer(aiohttp.ClientResponse):
    """An answer whose JSON is read by orjson, whoever asks for it."""

    async def json(self, **_: Any) -> Any:
        """Give the document; None where there is no body."""
        text = await self.read()
        return orjson.loads(text) if text else None


class Denied(Exception):
    """The API server answered 4xx; translated where the kind and the name are known."""

    def __init__(self, code: int, body: Mapping[str, Any]) -> None:
        super().__init__(str(body.get("message", "")))
        self.code = code
        self.reason = str(body.get("reason", ""))
        details = body.get("details") or {}
        self.causes = [str(cause.get("reason", "")) for cause in details.get("causes") or ()]


class Bucket:
    """A token bucket; a Retry-After empties it for everybody."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst, self.tokens, self.at = rate, burst, burst, 0.0

    async def take(self) -> None:
        """Wait for a token."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate) - 1
        self.at = now
        if self.tokens < 0:
            await asyncio.sleep(-self.tokens / self.rate)

    def pause(self, seconds: float) -> None:
        """The server asked for quiet."""
        self.tokens = min(self.tokens, -seconds * self.rate)


class Api:
    """One HTTP session to the API server."""

    def __init__(self, configuration: Any, agent: str = "zimage-operator") -> None:
        self.configuration = configuration
        self.bucket = Bucket(REQUESTS_PER_SECOND, BURST)
        self.session: aiohttp.ClientSession | None = None
        # What the API server's audit log calls this process.
        self.agent = agent
        # Asked before every write but the Lease's; raises where another replica may be acting.
        self.fence: Callable[[], None] = lambda: None
        # When a request last got no useful answer, by the loop's clock.
        self.failed_at = 0.0

    @classmethod
    async def connect(cls, agent: str = "zimage-operator") -> Api:
        """Read the configuration: KUBECONFIG where it is set, else the pod's own."""
        configuration = client.Configuration()
        if os.environ.get("KUBECONFIG"):
            await config.load_kube_config(client_configuration=configuration)
        else:
            config.load_incluster_config(client_configuration=configuration)
        api = cls(configuration, agent)
        api.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=32, ssl=api.context()),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            response_class=Answer,
        )
        return api

    async def close(self) -> None:
        """End the session."""
        if self.session:
            await self.session.close()

    def context(self) -> ssl.SSLContext:
        """Trust the cluster's own CA and show our certificate, if we have one."""
        context = ssl.create_default_context(cafile=self.configuration.ssl_ca_cert)
        if self.configuration.cert_file:
            context.load_cert_chain(self.configuration.cert_file, self.configuration.key_file)
        return context

    async def token(self) -> str | None:
        """Give the bearer token as it is now: a pod's token is replaced every hour."""
        text = await self.configuration.get_api_key_with_prefix("BearerToken")
        return str(text).removeprefix("bearer ").removeprefix("Bearer ") if text else None

    async def session_of_streams(self) -> aiohttp.ClientSession:
        """Open a session for another client that logs in as we do; whoever asked closes it."""
        token = await self.token()
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self.context()),
            headers={"Authorization": f"Bearer {token}"} if token else {},
            response_class=Answer,
        )

    async def request(
        self,
        verb: str,
        path: str,
        *,
        kind: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Any:
        """Send one request; retry what is safe to retry. All our writes are idempotent.

        Raises:
            Denied: 4xx other than 409 and 429.
            Conflict: 409.
            ClusterUnavailable: no useful answer after several tries.
        """
        problem = ""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(random.uniform(0.5, 1) * 0.2 * 2**attempt)  # noqa: S311
            await self.bucket.take()
            if verb != "GET" and kind != "Lease":
                self.fence()
            try:
                code, answer, retry_after = await self.once(verb, path, query, body, content_type)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                metrics.API_REQUESTS.labels(verb, kind, "none").inc()
                problem = type(error).__name__
                self.failed_at = asyncio.get_running_loop().time()
                continue
            metrics.API_REQUESTS.labels(verb, kind, str(code)).inc()
            if code == 429:
                self.bucket.pause(min(retry_after, 30.0))
            if code < 400:
                return answer
            problem = f"{code} {answer.get('message', '')}"
            if code == 409 and answer.get("reason") != "AlreadyExists":
                raise Conflict(problem)
            if code < 500 and code != 429:
                raise Denied(code, answer)
            self.failed_at = asyncio.get_running_loop().time()
        raise ClusterUnavailable(f"{verb} {path}: {problem}")

    async def once(
        self, verb: str, path: str, query: Mapping[str, str] | None, body: Any, content_type: str
    ) -> tuple[int, Any, float]:
        """Send one request, once; give the status, the document, and the seconds of Retry-After."""
        assert self.session, "connect() first"
        token = await self.token()
        headers = {"Accept": "application/json", "User-Agent": self.agent} | (
            {"Authorization": f"Bearer {token}"} if token else {}
        )
        data = None
        if body is not None:
            headers["Content-Type"], data = content_type, orjson.dumps(body)
        # Names of objects need no quoting, and a query is quoted here: nothing has to be looked for once more.
        url = URL(self.configuration.host + path + (f"?{urlencode(query)}" if query else ""), encoded=True)
        with metrics.API_SECONDS.labels(verb).time():
            async with self.session.request(verb, url, data=data, headers=headers) as answer:
                document = await answer.json() if answer.content_type == "application/json" else {}
                return answer.status, document, float(answer.headers.get("Retry-After") or 1)

    async def pages(self, kind: Kind, namespace: str = "") -> AsyncIterator[tuple[list[dict[str, Any]], int]]:
        """List a kind in pages; give the items and the list's resource version."""
        query = {"limit": str(PAGE)} | ({"labelSelector": kind.selector} if kind.selector else {})
        while True:
            answer = await self.request("GET", kind.path(namespace), kind=kind.name, query=query)
            head = answer["metadata"]
            for item in answer["items"]:
                # A list leaves them out; everything behind this line reads them.
                item.setdefault("kind", kind.name)
                item.setdefault("apiVersion", kind.api_version)
            yield answer["items"], int(head["resourceVersion"])
            if not head.get("continue"):
                return
            query["continue"] = head["continue"]
