"""What a 4xx of the API server means."""

from __future__ import annotations

import pytest

from zimage_operator.api import Denied
from zimage_operator.cluster import translate
from zimage_operator.errors import (
    ClaimsMissing,
    Conflict,
    KindMissing,
    MonitoringMissing,
    NamespaceTerminating,
    Rejected,
)
from zimage_operator.manifest import Ref

TARGET = Ref("Deployment", "team-a", "druid")


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ("uid mismatch: the provided object specified uid 1, and no existing object was found", Conflict),
        ('Deployment.apps "studio" is invalid: metadata.uid: Invalid value: "1": field is immutable', Conflict),
        ('Deployment.apps "druid" is invalid: spec.replicas: Invalid value: -1', Rejected),
    ],
)
def test_only_the_uid_itself_makes_a_conflict(message: str, meaning: type[Exception]) -> None:
    assert type(translate(Denied(422, {"message": message}), TARGET)) is meaning


@pytest.mark.parametrize(
    ("kind", "meaning", "reason", "advice"),
    [
        ("ResourceClaimTemplate", ClaimsMissing, "DeviceClaimsUnsupported", "write gpu.resourceName instead"),
        ("PodMonitor", MonitoringMissing, "MonitoringUnsupported", "or remove monitoring.podMonitor"),
        ("Middleware", KindMissing, "DialectUnsupported", "install it: kubectl apply --server-side -f https://"),
    ],
)
def test_a_kind_that_is_not_served_is_said_with_what_to_do(
    kind: str, meaning: type[KindMissing], reason: str, advice: str
) -> None:
    found = translate(Denied(404, {"message": "the server could not find the requested resource"}), Ref(kind, "a", "b"))
    assert type(found) is meaning
    assert found.reason == reason
    assert advice in str(found)


ENDING = {"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]}


@pytest.mark.parametrize(
    ("code", "details", "meaning"),
    [
        (403, ENDING, NamespaceTerminating),
        # The namespace itself, for what no CRD has to bring.
        (404, {}, NamespaceTerminating),
        (403, {}, Rejected),
        (422, ENDING, Rejected),
    ],
)
def test_a_namespace_on_its_way_out_is_told_from_a_missing_right(
    code: int, details: dict[str, object], meaning: type[Exception]
) -> None:
    assert type(translate(Denied(code, {"message": "no", "details": details}), TARGET)) is meaning
