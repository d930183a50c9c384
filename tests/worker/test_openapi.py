"""Cases made from the API's own document, against the real process with the real (tiny) pipeline.

The document is not served; the app factory makes it. The process is bounded to 64 x 64 px, two steps and
two pictures, so that the two thousand cases end within a minute.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks
from schemathesis.config import SchemathesisConfig

from zimage_worker import settings as worker_settings
from zimage_worker.__main__ import Process
from zimage_worker.app import create_app
from zimage_worker.logs import AccessLog

AUTH = ("alice", "canary-password-7f3a")
BOUNDS = {"ZIMAGE_MAX_PIXELS": "4096", "ZIMAGE_MAX_STEPS": "2", "ZIMAGE_MAX_IMAGES": "2"}
# Most of them where most can go wrong: the two routes that read an order.
CASES_OF_ORDERS, CASES = 800, 100
SIGNING_KEY = "canary-signing-key-0123456789abcdef"


def document() -> dict[str, Any]:
    environ = {
        "ZIMAGE_AUTH_MODE": "Any", "ZIMAGE_BASIC_FILE": "/nowhere/auth", "ZIMAGE_ALLOWED_HOSTS": "*",
        "ZIMAGE_TOKEN_SIGNING_KEY_FILE": "/nowhere/key", "ZIMAGE_MODEL_PATH": "/nowhere", **BOUNDS,
    }  # fmt: skip
    chosen = worker_settings.parse(environ)

    async def made() -> dict[str, Any]:
        parts = Process(chosen, AccessLog(sys.stdout)).parts(asyncio.get_running_loop())
        found: dict[str, Any] = create_app(parts).openapi()
        return found

    return asyncio.run(made())


schema = schemathesis.openapi.from_dict(document(), config=SchemathesisConfig())
orders = schema.include(path_regex="^/v1/images/")
rest = schema.exclude(path_regex="^/v1/images/")
counted: Counter[str] = Counter()


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, worker) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("bounded")
    one = type(worker)(
        folder, tiny_model, ZIMAGE_AUTH_MODE="Any", ZIMAGE_TOKEN_SIGNING_KEY_FILE=str(folder / "key"), **BOUNDS
    )
    (folder / "key").write_text(SIGNING_KEY)
    one.htpasswd.write_text(worker.htpasswd.read_text())
    one.start()
    try:
        yield one.ready()
    finally:
        one.end()


def generated(cases: int) -> settings:
    """So many for each operation, the same each time."""
    return settings(
        max_examples=cases, derandomize=True, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def answered_as_documented(bounded: Any, case: Any) -> None:
    counted[case.operation.label] += 1
    # An address of its own: random passwords for /token are guesses, and the limit of guesses is another test's.
    address = {"X-Forwarded-For": f"10.0.{counted.total() >> 8}.{counted.total() & 255}"}
    answer = case.call(base_url=f"http://127.0.0.1:{bounded.port}", auth=AUTH, headers=address)
    case.validate_response(
        answer,
        checks=[
            checks.not_a_server_error,
            schemathesis.specs.openapi.checks.status_code_conformance,
            schemathesis.specs.openapi.checks.content_type_conformance,
            schemathesis.specs.openapi.checks.response_headers_conformance,
            schemathesis.specs.openapi.checks.response_schema_conformance,
        ],
    )


@orders.parametrize()
@generated(CASES_OF_ORDERS)
def test_whatever_is_ordered_the_answer_is_as_documented(bounded, case) -> None:
    answered_as_documented(bounded, case)


@rest.parametrize()
@generated(CASES)
def test_whatever_else_is_sent_the_answer_is_as_documented(bounded, case) -> None:
    answered_as_documented(bounded, case)


def test_there_were_two_thousand_cases_and_nothing_broke(bounded) -> None:
    """Last in the file. A case may be a refusal, but many were pictures."""
    assert counted.total() >= 2000
    assert {label.split()[1] for label in counted} == set(document()["paths"])
    assert bounded.metric('zimage_requests_total{outcome="success"}') >= 20
    assert "a request failed unexpectedly" not in bounded.logs()


def test_the_document_names_every_path() -> None:
    paths = {"/v1/images/generations", "/v1/images/edits", "/v1/models", "/healthz", "/auth/verify", "/token"}
    assert set(document()["paths"]) == paths
