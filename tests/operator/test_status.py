"""The status from facts alone: every reason, and the laws over all combinations of facts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import smallest
from zimage_operator.errors import NotOwned
from zimage_operator.manifest import Ref
from zimage_operator.observed import ClassFacts, DeploymentFacts, Observed, PodFacts, Posture, Problem, Report
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
