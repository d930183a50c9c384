"""The status from facts alone: every reason, and the laws over all combinations of facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import smallest
from zimage_operator.entrances import Entrance, Entrances, Verdict
from zimage_operator.errors import CertManagerMissing, Issuing, NotOwned
from zimage_operator.exposure import Exposure, Hole
from zimage_operator.manifest import Ref
from zimage_operator.names import MAX_EXPOSURES
from zimage_operator.observed import (
    DeploymentFacts,
    EdgeReport,
    Observed,
    PodFacts,
    Posture,
    Problem,
    ReceiptFacts,
    Report,
)
from zimage_operator.spec import parse
from zimage_operator.status import status, unprotected, withheld

NOW = datetime(2026, 11, 24, tzinfo=UTC)
SERVICE = parse(smallest(namespace="team-a"))
REQUIRED = parse(smallest(namespace="team-a", network={"enforcement": "Required"}))
ENTRANCE = Entrance("traefik.io/ingress-controller", dialect="traefik")
NAMES = ("NetworkPolicy", "Deployment", "Ingress")
ALL = frozenset(Ref(kind, "team-a", "studio") for kind in NAMES)
INGRESS = Ref("Ingress", "team-a", "studio")
POD = PodFacts("team-a", "studio-x", "u", "studio", "r", "192.0.2.1", "Running", True, False, "", "", "", "", None)
LOADED = Posture("Basic", 2, (), True, (), NOW + timedelta(days=30), ("img.example.org",), True, (), "ready")


def deployment(available: int = 1) -> DeploymentFacts:
    return DeploymentFacts(1, 1, 1, 1, available, available, "r", {})


def observed(**changes: Any) -> Observed:
    facts: dict[str, Any] = {
        "existing": ALL,
        "deployment": deployment(),
        "pods": (POD,),
        "reports": {"u": Report("blocked", LOADED)},
        "entrance": ENTRANCE,
        "probing": True,
    }
    return Observed(**{**facts, **changes})


def found(facts: Observed, service: Any = SERVICE) -> dict[str, dict[str, Any]]:
    return {item["type"]: item for item in status(service, facts, {}, NOW)["conditions"]}


WIDE = Hole("OtherPolicyWidens", Ref("NetworkPolicy", "team-a", "wide"), "NetworkPolicy wide admits everybody")
DOOR = Hole("ExtraRoute", Ref("Ingress", "team-a", "door"), "Ingress door leads to the workers")
RIVAL = Hole("HostConflict", Ref("ZImageService", "team-b", "first"), "host img.example.org belongs to another")


def posture(**changes: Any) -> dict[str, Report]:
    return {"u": Report("blocked", Posture(**{**LOADED.__dict__, **changes}))}


def test_all_green() -> None:
    conditions = found(observed())
    assert {item["status"] for item in conditions.values()} == {"True"}
    assert conditions["NetworkPolicyEnforced"]["reason"] == "Enforced"


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "an open port": ({"reports": {"u": Report("open", LOADED)}}, "NetworkPolicyEnforced", "NotEnforced"),
    "a cut network": ({"reports": {"u": Report("unreachable", None)}}, "NetworkPolicyEnforced", "ProbeFailed"),
    "no probe yet": ({"reports": {}}, "NetworkPolicyEnforced", "NotProbed"),
    # What reports there are is of no account: a pod's address means nothing there.
    "outside the cluster": ({"probing": False}, "NetworkPolicyEnforced", "NotProbed"),
    "a worker that was not looked at": (
        {"pods": (POD, replace(POD, uid="v", name="studio-y"))},
        "NetworkPolicyEnforced",
        "NotProbed",
    ),
    "one of two that is open": (
        {
            "pods": (POD, replace(POD, uid="v", name="studio-y")),
            "reports": {"u": Report("blocked", LOADED), "v": Report("open", LOADED)},
        },
        "NetworkPolicyEnforced",
        "NotEnforced",
    ),
    "in an allowed namespace": ({"blind": True}, "NetworkPolicyEnforced", "NotProbed"),
    "a missing secret": (
        {"reports": posture(auth_problems=(Problem("SecretMissing", "no htpasswd"),))},
        "AuthConfigured",
        "SecretMissing",
    ),
    "no user": ({"reports": posture(users=0)}, "AuthConfigured", "SecretMalformed"),
    "an expired certificate": ({"reports": posture(not_after=NOW)}, "CertificateReady", "CertificateExpired"),
    "another host": ({"reports": posture(matches_host=False)}, "CertificateReady", "HostMismatch"),
    "no class": ({"entrance": Entrances().entrance(SERVICE)}, "IngressReady", "ClassNotFound"),
    "a hole": ({"exposure": Exposure((WIDE,))}, "ExposureAsDeclared", "OtherPolicyWidens"),
    "a host that is taken": ({"exposure": Exposure(rival=RIVAL)}, "IngressReady", "HostConflict"),
    "a door that lets strangers in": ({"edge": EdgeReport("open", "200")}, "AuthConfigured", "EdgeOpen"),
    "a taken name": ({"refused": (NotOwned("NetworkPolicy", "studio", "taken"),)}, "NetworkPolicyReady", "NotOwned"),
    "a model that does not load": (
        {"deployment": deployment(0), "reports": posture(model_problems=(Problem("ModelMissing", "no model"),))},
        "WorkloadReady",
        "ModelMissing",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fact_has_its_reason(case: str) -> None:
    facts, kind, reason = CASES[case]
    assert found(observed(**facts))[kind]["reason"] == reason


def test_nobody_waits_for_who_watches_a_service() -> None:
    """Neither its route nor Ready; a new route is applied all the same."""
    facts = observed(refused=(NotOwned("PodMonitor", "studio", "taken"),), existing=ALL - {INGRESS})
    assert withheld(SERVICE, facts, NOW) is None
    conditions = found(observed(refused=facts.refused))
    assert (conditions["MonitoringReady"]["status"], conditions["Ready"]["status"]) == ("False", "True")
    watched = found(observed(existing=ALL | {Ref("PodMonitor", "team-a", "studio")}))["MonitoringReady"]
    assert (watched["status"], watched["message"][-18:]) == ("True", "in from monitoring")
    assert "MonitoringReady" not in found(observed())


JWT = {"issuer": "https://login.example.org", "audiences": ["zimage"], "jwks": {"configMapName": "studio-jwks"}}
USERS = {"secretName": "studio-users"}
ADDRESS = "https://login.example.org/keys"
GENERATED = {"basic": {"generate": True}}
MISSING_KEYS = Problem("SecretMissing", "no key set at /etc/zimage/jwks/jwks.json: it is missing")
MADE = ReceiptFacts("issue", "a" * 64, NOW - timedelta(hours=1))

# How callers sign in, what was seen, then: status, reason, and what the message says.
SIGN_IN: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, str, str]]] = {
    "passwords": ({"basic": USERS}, {}, ("True", "Loaded", "Basic authentication with 2 users")),
    "tokens": ({"jwt": JWT}, {"key_ids": ("k",)}, ("True", "Loaded", "tokens of https://login.example.org")),
    "both": ({"basic": USERS, "jwt": JWT}, {"key_ids": ("k", "l")}, ("True", "Loaded", "2 users, tokens of https")),
    "own tokens": (
        {"basic": USERS, "token": {"enabled": True, "signingKeySecretName": "signing"}},
        {"key_ids": ("k",)},
        ("True", "Loaded", "tokens of POST /token"),
    ),
    "no keys": ({"jwt": JWT}, {}, ("False", "SecretMalformed", "no key that could verify a token")),
    "no key set": (
        {"jwt": JWT},
        {"auth_problems": (MISSING_KEYS,)},
        ("False", "SecretMissing", "ConfigMap studio-jwks: no key set"),
    ),
    "no key set in a Secret": (
        {"basic": USERS, "jwt": {**JWT, "jwks": {"secretName": "keys"}}},
        {"auth_problems": (MISSING_KEYS,)},
        ("False", "SecretMissing", "Secret keys: no key set"),
    ),
    "no htpasswd beside keys": (
        {"basic": USERS, "jwt": JWT},
        {"auth_problems": (Problem("SecretMissing", "no htpasswd at /etc/zimage/basic/htpasswd"),)},
        ("False", "SecretMissing", "Secret studio-users: no htpasswd"),
    ),
    "no signing key": (
        {"basic": USERS, "token": {"enabled": True, "signingKeySecretName": "signing"}},
        {"auth_problems": (Problem("SecretMissing", "no signing key at /etc/zimage/token/key"),)},
        ("False", "SecretMissing", "Secret signing: no signing key"),
    ),
    "an issuer that does not answer": (
        {"basic": USERS, "jwt": {**JWT, "jwks": {"url": ADDRESS}}},
        {"auth_problems": (Problem("KeysUnreachable", f"{ADDRESS} does not answer"),)},
        ("False", "KeysUnreachable", "jwks.url: https://login.example.org/keys does not answer"),
    ),
    "generated": (GENERATED, {"basic_sha256": "a" * 64}, ("True", "Loaded", "2 users")),
    "generated and edited": (
        GENERATED,
        {"basic_sha256": "b" * 64},
        ("False", "NotOwned", "Secret studio-basic-auth does not hold what the operator made up: delete it"),
    ),
}


@pytest.mark.parametrize("case", SIGN_IN)
def test_what_was_loaded_is_told_for_every_way_of_signing_in(case: str) -> None:
    auth, changes, wanted = SIGN_IN[case]
    service = parse(smallest(namespace="team-a", auth=auth))
    judged = found(observed(reports=posture(**changes), receipt=MADE), service)["AuthConfigured"]
    assert (judged["status"], judged["reason"]) == wanted[:2]
    assert wanted[2] in judged["message"]


def test_new_credentials_are_waited_for() -> None:
    """The kubelet needs up to two minutes: until then the old file is no sign of a stranger."""
    service = parse(smallest(namespace="team-a", auth=GENERATED))
    young = replace(MADE, created=NOW - timedelta(seconds=30))
    judged = found(observed(reports=posture(basic_sha256="b" * 64), receipt=young), service)["AuthConfigured"]
    assert (judged["status"], judged["reason"]) == ("Unknown", "WaitingForWorker")


def test_a_secret_in_the_way_is_told_and_takes_the_route_away() -> None:
    service = parse(smallest(namespace="team-a", auth=GENERATED))
    taken = observed(refused=(NotOwned("Secret", "studio-basic-auth", "taken"),), receipt=None)
    assert found(taken, service)["AuthConfigured"]["reason"] == "NotOwned"
    assert unprotected(service, taken)
    clearing = observed(refused=(Issuing("Secret", "studio-basic-auth", "a moment"),), receipt=None)
    judged = found(clearing, service)["AuthConfigured"]
    assert (judged["status"], judged["reason"]) == ("Unknown", "IssuingCredentials")
    assert not unprotected(service, clearing)


def test_a_failure_speaks_before_what_is_under_way() -> None:
    facts = observed(
        deployment=deployment(0), reports=posture(auth_problems=(Problem("SecretMissing", "no htpasswd"),))
    )
    ready = found(facts)["Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "SecretMissing")
    assert "studio-users" in ready["message"]


def test_a_broken_network_is_never_called_enforced() -> None:
    for isolation in ("open", "unreachable", "untested"):
        assert found(observed(reports={"u": Report(isolation, LOADED)}))["NetworkPolicyEnforced"]["status"] != "True"


def test_required_enforcement_withholds_and_withdraws() -> None:
    fresh = observed(existing=ALL - {Ref("Ingress", "team-a", "studio")}, reports={})
    assert withheld(REQUIRED, fresh, NOW)
    # Where nothing but the proof is missing too, and only there where it is required.
    for isolation in ("untested", "unreachable"):
        unproved = observed(existing=ALL - {INGRESS}, reports={"u": Report(isolation, LOADED)})
        judged = withheld(REQUIRED, unproved, NOW)
        assert judged
        assert judged.reason == "WaitingForEnforcement"
        assert withheld(SERVICE, unproved, NOW) is None
    assert not unprotected(REQUIRED, observed(reports={}))  # a restarted operator takes nothing away
    assert unprotected(REQUIRED, observed(reports={"u": Report("open", LOADED)}))
    assert not unprotected(SERVICE, observed(reports={"u": Report("open", LOADED)}))


def test_a_hole_is_told_and_takes_nothing_away() -> None:
    conditions = found(observed(exposure=Exposure((WIDE, DOOR))))
    assert conditions["Ready"]["status"] == "True"
    assert conditions["ExposureAsDeclared"]["message"] == "NetworkPolicy wide admits everybody; also Ingress door"
    listed = status(SERVICE, observed(exposure=Exposure((WIDE, DOOR))), {}, NOW)["exposures"]
    assert [item["name"] for item in listed] == ["wide", "door"]


def test_walls_that_do_not_hold_are_explained_by_the_hole_that_is_known() -> None:
    opened = {"u": Report("open", LOADED)}
    message = found(observed(reports=opened, exposure=Exposure((WIDE,))))["NetworkPolicyEnforced"]["message"]
    assert message.endswith(WIDE.message)
    assert "network plugin" in found(observed(reports=opened))["NetworkPolicyEnforced"]["message"]


def test_a_status_lists_no_more_holes_than_the_schema_takes() -> None:
    many = Exposure(tuple(Hole("ExtraRoute", Ref("Ingress", "a", f"d{n}"), "m") for n in range(MAX_EXPOSURES + 9)))
    document = status(SERVICE, observed(exposure=many), {}, NOW)
    assert len(document["exposures"]) == MAX_EXPOSURES
    assert document["conditions"]
    message = next(item["message"] for item in document["conditions"] if item["type"] == "ExposureAsDeclared")
    assert message.endswith("…")


def test_who_lost_the_host_loses_the_route() -> None:
    lost = observed(exposure=Exposure(rival=RIVAL))
    assert unprotected(SERVICE, lost)
    judged = withheld(SERVICE, lost, NOW)
    assert judged
    assert judged.reason == "HostConflict"


@pytest.mark.parametrize(
    ("edge", "text"),
    [
        (None, "Basic authentication with 2 users"),
        (EdgeReport("refused", "401"), "strangers are refused at the published URL (401)"),
        (EdgeReport("unclear", "TimeoutError"), "could not be told (TimeoutError)"),
    ],
)
def test_what_the_edge_answers_is_in_the_message(edge: EdgeReport | None, text: str) -> None:
    message = found(observed(edge=edge))["AuthConfigured"]["message"]
    assert message.endswith(text)


def written(at: datetime, previous: dict[str, Any], **changes: Any) -> dict[str, Any]:
    reports = {"u": Report("blocked", LOADED, at=at)}
    return status(SERVICE, observed(reports=reports, **changes), previous, NOW)


def test_a_probe_that_finds_the_same_is_recorded_once_an_hour() -> None:
    first = written(NOW, {})
    assert first["lastProbeTime"] == "2026-11-24T00:00:00Z"
    assert written(NOW + timedelta(minutes=59), first) == first
    later = written(NOW + timedelta(minutes=61), first)
    assert later == {**first, "lastProbeTime": "2026-11-24T01:01:00Z"}


def test_a_status_that_is_written_anyway_has_the_latest_time() -> None:
    first = written(NOW, {})
    changed = written(NOW + timedelta(minutes=5), first, exposure=Exposure((WIDE,)))
    assert changed["lastProbeTime"] == "2026-11-24T00:05:00Z"


@pytest.mark.parametrize("forged", ["2036-01-01T00:00:00Z", "not a time", "2016-12-31T23:59:60Z", ""])
def test_a_forged_time_does_not_stand(forged: str) -> None:
    first = written(NOW, {})
    assert written(NOW, {**first, "lastProbeTime": forged}) == first


def test_the_time_is_that_of_the_worker_seen_longest_ago() -> None:
    second = PodFacts(**{**{name: getattr(POD, name) for name in POD.__dataclass_fields__}, "uid": "v"})
    reports = {"u": Report("blocked", LOADED, at=NOW), "v": Report("blocked", LOADED, at=NOW - timedelta(minutes=2))}
    facts = observed(pods=(POD, second), reports=reports)
    assert status(SERVICE, facts, {}, NOW)["lastProbeTime"] == "2026-11-23T23:58:00Z"


def test_no_time_is_claimed_where_nothing_was_tested() -> None:
    facts = observed(reports={"u": Report("untested", LOADED, at=NOW)})
    assert "lastProbeTime" not in status(SERVICE, facts, {}, NOW)


def test_no_new_route_without_credentials_and_certificate() -> None:
    fresh = observed(existing=ALL - {Ref("Ingress", "team-a", "studio")}, reports=posture(users=0))
    judged = withheld(SERVICE, fresh, NOW)
    assert judged
    assert "the credentials" in judged.message


@settings(deadline=None)
@given(
    st.sets(st.sampled_from(sorted(ALL))),
    st.sampled_from([None, deployment(), deployment(0)]),
    st.sampled_from(["blocked", "open", "unreachable", "untested"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([SERVICE, REQUIRED]),
    st.sampled_from([Exposure(), Exposure((WIDE, DOOR)), Exposure(rival=RIVAL), Exposure((WIDE,), RIVAL)]),
    st.sampled_from([None, EdgeReport("refused", "401"), EdgeReport("open", "200"), EdgeReport("unclear", "404")]),
)
def test_the_laws_hold_for_all_facts(
    existing: set[Ref],
    facts: DeploymentFacts | None,
    isolation: str,
    probing: bool,
    classed: bool,
    service: Any,
    exposure: Exposure,
    edge: EdgeReport | None,
) -> None:
    # What is not there has no facts: both come from one cache.
    facts = facts if Ref("Deployment", "team-a", "studio") in existing else None
    seen = observed(
        existing=frozenset(existing),
        deployment=facts,
        reports={"u": Report(isolation, LOADED, at=NOW)},
        probing=probing,
        exposure=exposure,
        edge=edge,
        entrance=ENTRANCE if classed else Entrance(reason="ClassNotFound", message="no IngressClass"),
    )
    document = status(service, seen, {}, NOW)
    conditions = {item["type"]: item for item in document["conditions"]}
    assert all(item["reason"] and item["message"] for item in conditions.values())
    if conditions["Ready"]["status"] == "True":
        assert facts
        assert existing == ALL
        assert "Reconciling" not in conditions
        assert "Stalled" not in conditions
        assert not exposure.rival
        assert not (probing and edge and edge.result == "open")
    else:
        assert conditions["Ready"]["reason"] in {item["reason"] for key, item in conditions.items() if key != "Ready"}
    declared = conditions["ExposureAsDeclared"]
    assert (declared["status"] == "False") == bool(exposure.holes) == ("exposures" in document)
    # A time is claimed only beside what was tested then.
    assert ("lastProbeTime" in document) == (isolation != "untested" and facts is not None)
    # The second pass over its own result changes nothing.
    assert status(service, seen, document, NOW + timedelta(hours=1)) == document


ISSUED = parse(
    smallest(
        namespace="team-a",
        ingress={"host": "img.example.org", "className": "traefik", "tls": {"issuerRef": {"name": "ca"}}},
    )
)
CERTIFICATE = Ref("Certificate", "team-a", "studio-tls")


@pytest.mark.parametrize(
    ("facts", "reason", "told"),
    [
        ({"verdicts": {}}, "Issuing", "Issuer ca exists"),
        ({"verdicts": {CERTIFICATE: Verdict("refused", "Failed: no")}}, "Issuing", "Failed: no"),
        ({"verdicts": {CERTIFICATE: Verdict("accepted")}}, "Loaded", "Secret studio-tls"),
        (
            {"refused": (CertManagerMissing("Certificate", "studio-tls", "install it: …"),)},
            "CertManagerMissing",
            "install it",
        ),
    ],
)
def test_a_certificate_is_waited_for_with_what_cert_manager_says(facts: Any, reason: str, told: str) -> None:
    condition = found(observed(**facts), ISSUED)["CertificateReady"]
    assert condition["reason"] == reason
    assert told in condition["message"]


@pytest.mark.parametrize(
    ("verdict", "status", "reason"),
    [
        (Verdict("accepted"), "True", "Published"),
        (Verdict("pending"), "Unknown", "WaitingForGateway"),
        (Verdict("refused", "NotAllowedByListeners: no"), "False", "RefusedByEdge"),
    ],
)
def test_a_route_is_published_when_the_gateway_takes_it(verdict: Verdict, status: str, reason: str) -> None:
    parent = {"name": "edge", "namespace": "dmz", "sectionName": "https"}
    service = parse(
        smallest(namespace="team-a", ingress=None, gateway={"host": "img.example.org", "parentRef": parent})
    )
    route = Ref("HTTPRoute", "team-a", "studio")
    facts = observed(existing=ALL | {route}, verdicts={route: verdict}, entrance=Entrance("c", dialect="gateway"))
    condition = found(facts, service)["IngressReady"]
    assert (condition["status"], condition["reason"]) == (status, reason)
    assert "CertificateReady" not in found(facts, service)


def test_the_status_says_what_the_workers_alone_do() -> None:
    entrance = Entrance("c", dialect="plain", left=("auth", "rateLimit"), note="strangers reach the worker's login")
    message = found(observed(entrance=entrance))["IngressReady"]["message"]
    assert "by plain; by the workers alone: auth, rateLimit; strangers reach the worker's login" in message
    lacking = replace(entrance, reason="DialectUnsupported", message="allowedSourceRanges is written", unsafe=True)
    assert unprotected(SERVICE, observed(entrance=lacking))
    assert withheld(SERVICE, observed(entrance=lacking), NOW).reason == "DialectUnsupported"


def test_without_workers_it_is_not_ready_before_its_route_stands() -> None:
    """Nothing that only a worker shows is waited for, but Ready=True says where the service is."""
    service = parse(smallest(namespace="team-a", replicas=0))
    none = {"deployment": DeploymentFacts(1, 1, 0, 0, 0, 0, "r", {}, wanted=0), "pods": (), "reports": {}}
    without = frozenset(ref for ref in ALL if ref.kind != "Ingress")
    judged = found(observed(existing=without, **none), service)
    assert (judged["IngressReady"]["status"], judged["Ready"]["status"]) == ("Unknown", "Unknown")
    judged = found(observed(**none), service)
    assert (judged["IngressReady"]["status"], judged["Ready"]["status"]) == ("True", "True")
