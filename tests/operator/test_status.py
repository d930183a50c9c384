"""The status from facts alone: every reason, and the laws over all combinations of facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import smallest
from zimage_operator.errors import Issuing, NotOwned
from zimage_operator.manifest import Ref
from zimage_operator.observed import (
    ClassFacts,
    DeploymentFacts,
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
NAMES = ("NetworkPolicy", "Deployment", "Ingress")
ALL = frozenset(Ref(kind, "team-a", "studio") for kind in NAMES)
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
        "ingress_class": ClassFacts("traefik.io/ingress-controller"),
        "probing": True,
    }
    return Observed(**{**facts, **changes})


def found(facts: Observed, service: Any = SERVICE) -> dict[str, dict[str, Any]]:
    return {item["type"]: item for item in status(service, facts, "traefik", {}, NOW)["conditions"]}


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
    "in an allowed namespace": ({"blind": True}, "NetworkPolicyEnforced", "NotProbed"),
    "a missing secret": (
        {"reports": posture(auth_problems=(Problem("SecretMissing", "no htpasswd"),))},
        "AuthConfigured",
        "SecretMissing",
    ),
    "no user": ({"reports": posture(users=0)}, "AuthConfigured", "SecretMalformed"),
    "an expired certificate": ({"reports": posture(not_after=NOW)}, "CertificateReady", "CertificateExpired"),
    "another host": ({"reports": posture(matches_host=False)}, "CertificateReady", "HostMismatch"),
    "no class": ({"ingress_class": None}, "IngressReady", "ClassNotFound"),
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
    assert not unprotected(REQUIRED, observed(reports={}))  # a restarted operator takes nothing away
    assert unprotected(REQUIRED, observed(reports={"u": Report("open", LOADED)}))
    assert not unprotected(SERVICE, observed(reports={"u": Report("open", LOADED)}))


def test_no_new_route_without_credentials_and_certificate() -> None:
    fresh = observed(existing=ALL - {Ref("Ingress", "team-a", "studio")}, reports=posture(users=0))
    judged = withheld(SERVICE, fresh, NOW)
    assert judged
    assert "the credentials" in judged.message


@given(
    st.sets(st.sampled_from(sorted(ALL))),
    st.sampled_from([None, deployment(), deployment(0)]),
    st.sampled_from(["blocked", "open", "unreachable", "untested"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([SERVICE, REQUIRED]),
)
def test_the_laws_hold_for_all_facts(
    existing: set[Ref], facts: DeploymentFacts | None, isolation: str, probing: bool, classed: bool, service: Any
) -> None:
    # What is not there has no facts: both come from one cache.
    facts = facts if Ref("Deployment", "team-a", "studio") in existing else None
    seen = observed(
        existing=frozenset(existing),
        deployment=facts,
        reports={"u": Report(isolation, LOADED)},
        probing=probing,
        ingress_class=ClassFacts("traefik.io/ingress-controller") if classed else None,
    )
    document = status(service, seen, "traefik" if classed else "", {}, NOW)
    conditions = {item["type"]: item for item in document["conditions"]}
    assert all(item["reason"] and item["message"] for item in conditions.values())
    if conditions["Ready"]["status"] == "True":
        assert facts
        assert existing == ALL
        assert "Reconciling" not in conditions
        assert "Stalled" not in conditions
    else:
        assert conditions["Ready"]["reason"] in {item["reason"] for key, item in conditions.items() if key != "Ready"}
    # The second pass over its own result changes nothing.
    assert status(service, seen, "traefik" if classed else "", document, NOW + timedelta(hours=1)) == document
