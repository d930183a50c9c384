"""What no role of the operator's gives, in every form in which it is shipped; that all are used: test_operator.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from support import ROOT

Rule = dict[str, list[str]]
CHART = ROOT / "charts" / "zimage-operator"
# Each would let it give itself, or somebody, any other right.
GIVING = {"escalate", "bind", "impersonate", "*", "deletecollection", "update"}


def rules(name: str) -> Iterator[Rule]:
    if name == "chart":
        for found in yaml.safe_load((CHART / "files" / "rules.yaml").read_text()).values():
            yield from found
        return
    for item in yaml.safe_load_all((ROOT / "operator" / f"{name}.yaml").read_text()):
        yield from item.get("rules", ())


def about(name: str, resource: str) -> set[str]:
    """What may be done to a resource."""
    return {verb for rule in rules(name) if resource in rule["resources"] for verb in rule["verbs"]}


@pytest.fixture(params=["install", "install-namespaced", "chart"])
def shipped(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_secret_may_be_created_and_nothing_else(shipped: str) -> None:
    assert about(shipped, "secrets") == {"create"}


def test_a_resource_is_never_written_but_for_its_status(shipped: str) -> None:
    """So there is no finalizer and no annotation of ours on it."""
    assert about(shipped, "zimageservices") == {"list", "watch"}
    assert about(shipped, "zimageservices/status") == {"patch"}
    assert not any("zimageservices/finalizers" in rule["resources"] for rule in rules(shipped))


def test_what_holds_data_or_keeps_a_service_closed_may_not_be_deleted(shipped: str) -> None:
    for resource in ("persistentvolumeclaims", "networkpolicies", "deployments", "services", "serviceaccounts"):
        assert "patch" in about(shipped, resource)
        assert "delete" not in about(shipped, resource)


def test_no_right_gives_others(shipped: str) -> None:
    for rule in rules(shipped):
        # The Lease is written as a whole, so that of two writers one fails.
        allowed = {"update"} if rule["apiGroups"] == ["coordination.k8s.io"] else set()
        assert not (GIVING - allowed) & set(rule["verbs"]), rule
        assert "*" not in {*rule["resources"], *rule["apiGroups"]}, rule
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"], rule
        for resource in ("pods/exec", "pods/attach", "pods/portforward", "serviceaccounts/token", "nodes"):
            assert resource not in rule["resources"], rule
