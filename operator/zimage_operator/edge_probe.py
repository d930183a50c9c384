"""A stranger at the door: a request without credentials to the published URL must be refused.

Off unless the operator is told how it reaches the edge. No credential is ever sent, so the
certificate is not judged here (CertificateReady does that): a wrong one hides no open door.
"""

from __future__ import annotations

import asyncio

import aiohttp

from .observed import EdgeReport
from .settings import Edge

# The worker asks for credentials on every path but /healthz.
PATH = "/v1/models"
ANSWER_SECONDS = 5.0
# A route that was just applied is not served yet (Traefik: below 1 s); an open door is tried again.
CONFIRMATIONS = 3
CONFIRM_SECONDS = 1.0
REFUSED = frozenset({401, 403})


async def knock(host: str, edge: Edge) -> EdgeReport:
    """Ask for `host` without credentials; being let in is confirmed before it is called that."""
    report = await once(host, edge)
    for _ in range(CONFIRMATIONS - 1):
        if report.result != "open":
            break
        await asyncio.sleep(CONFIRM_SECONDS)
        report = await once(host, edge)
    return report


async def once(host: str, edge: Edge) -> EdgeReport:
    """Ask once. A redirect is not followed: where it leads is somebody else's door."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    place = f"[{edge.address}]" if ":" in edge.address else edge.address or host
    url = f"https://{place}:{edge.port}{PATH}"
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers={"Host": host}, server_hostname=host, ssl=False, allow_redirects=False) as answer,
        ):
            return judge(answer.status)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return EdgeReport("unclear", type(error).__name__)


def judge(status: int) -> EdgeReport:
    """Say what a status means: 401 and 403 refuse, a success lets in, anything else shows neither."""
    result = "refused" if status in REFUSED else "open" if 200 <= status < 300 else "unclear"
    return EdgeReport(result, str(status))
