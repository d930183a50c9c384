"""The chart on the real API server, by the real helm: what becomes of services when releases come, change and go."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import binaries
from cluster.control_plane import ControlPlane
from laws import wait_for
from releases import CHART, Helm, running, told
from support import claim, eventually, smallest

pytestmark = pytest.mark.control_plane

CRD = "zimageservices.zimage.dev"
SERVICE = {"gpu": {"count": 0}, "ingress": None, "auth": {"basic": {"generate": True}}}
WAIT = ("--wait", "--timeout", "120s")


def space(cluster: ControlPlane, *names: str) -> None:
    """Namespaces that admit restricted pods only."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    head = {"apiVersion": "v1", "kind": "Namespace"}
    cluster.apply(*({**head, "metadata": {"name": name, "labels": labels}} for name in names))


def pods(cluster: ControlPlane, place: str) -> set[str]:
    return {item["metadata"]["uid"] for item in cluster.get("pods", "-n", place)["items"]}


def deletions(cluster: ControlPlane, place: str) -> list[str]:
    """What anybody deleted in a namespace."""
    return [
        entry["requestURI"]
        for entry in cluster.audit()
        if entry["verb"].startswith("delete") and entry.get("objectRef", {}).get("namespace") == place
    ]


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The chart as it might have been: an older number, and a CRD that lacks a field."""
    copy = shutil.copytree(CHART, tmp_path / "previous")
    facts = copy / "Chart.yaml"
    facts.write_text(facts.read_text().replace("version: ", "version: 0.0.1-before-", 1))
    path = copy / "files" / "crd.yaml"
    crd = yaml.safe_load(path.read_text())
    del fields(crd)["suspend"]
    path.write_text(yaml.safe_dump(crd))
    return copy


def fields(crd: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return found


def people(cluster: ControlPlane, place: str) -> None:
    """Who has Kubernetes' own `edit` writes services, who has `view` reads them: its controller has added the rules."""
    for role in ("edit", "view"):
        cluster.kubectl("-n", place, "create", "rolebinding", role, f"--clusterrole={role}", f"--user=who-{role}s")

    def may(user: str, verb: str, what: str = "zimageservices.zimage.dev") -> bool:
        command = [cluster.facts["kubectl"], "auth", "can-i", verb, *what.split(), "-n", place, f"--as={user}"]
        return cluster.run(command, check=False).stdout.strip() == "yes"

    eventually(lambda: may("who-edits", "create") and may("who-views", "list"), "the rules are added")
    assert may("who-edits", "patch", "zimageservices.zimage.dev --subresource=scale")
    assert not may("who-views", "patch")
    assert not may("who-edits", "patch", "zimageservices.zimage.dev --subresource=status")
    assert not may("anybody", "list")


def test_the_life_of_a_release(control_plane: ControlPlane, helm: Helm, previous: Path, tmp_path: Path) -> None:
    """Installed, upgraded, rolled back, removed, and installed again: no serving pod notices any of it."""
    cluster, home, place = control_plane, "zimage-system", "life"
    space(cluster, home, place)
    claim(cluster, place)
    helm("install", "zimage-operator", previous, "-n", home, *WAIT)
    people(cluster, place)
    with running(cluster, home, tmp_path / "first"):
        cluster.apply(smallest(namespace=place, **SERVICE))
        wait_for(cluster, place, "Ready")
        serving = pods(cluster, place)
        assert serving
        upgrade(cluster, helm, home)
        assert pods(cluster, place) == serving
        # Back to the CRD that lacks a field, too: a rollback is a whole one.
        helm("rollback", "zimage-operator", "1", "-n", home, *WAIT)
        assert "suspend" not in fields(cluster.get("crd", CRD))
        upgrade(cluster, helm, home)
    helm("uninstall", "zimage-operator", "-n", home, *WAIT)
    assert not cluster.kubectl("-n", home, "get", "deploy,netpol,pdb,sa,role", "-l", "helm.sh/chart", "-o", "name")
    assert cluster.get("zis", "studio", "-n", place)["status"]["conditions"]
    assert pods(cluster, place) == serving
    before = len(cluster.audit())
    helm("install", "zimage-operator", CHART, "-n", home, *WAIT)
    with running(cluster, home, tmp_path / "second") as operator:
        # It has looked at everything once it repairs: a hand edit is put back.
        cluster.kubectl("-n", place, "label", "netpol", "studio", "app.kubernetes.io/part-of=x", "--overwrite")
        part = "jsonpath={.metadata.labels.app\\.kubernetes\\.io/part-of}"
        eventually(lambda: cluster.kubectl("-n", place, "get", "netpol", "studio", "-o", part) == "zimage", "repaired")
        assert operator.leads()
    wrote = [
        (entry["verb"], entry["objectRef"]["resource"])
        for entry in cluster.audit()[before:]
        if entry["verb"] in ("create", "update", "patch", "delete", "deletecollection")
        and entry.get("objectRef", {}).get("namespace") == place
        and "zimage-operator" in entry["user"]["username"]
        and entry["objectRef"]["resource"] != "events"
    ]
    # Found its own again and wrote nothing but the repair of what was broken just now.
    assert wrote == [("patch", "networkpolicies")]
    assert pods(cluster, place) == serving
    assert deletions(cluster, place) == []
    cluster.kubectl("-n", place, "delete", "zis", "studio")
    helm("uninstall", "zimage-operator", "-n", home, *WAIT)


def upgrade(cluster: ControlPlane, helm: Helm, home: str) -> None:
    """To the chart as it is, with other values: the CRD gets its field."""
    values = {"settings.logLevel": "debug", "podAnnotations": {"changed": "yes"}}
    helm("upgrade", "zimage-operator", CHART, "-n", home, *WAIT, *told(values))
    assert "suspend" in fields(cluster.get("crd", CRD))
    template = cluster.get("deployment", "zimage-operator", "-n", home)["spec"]["template"]
    assert template["metadata"]["annotations"]["changed"] == "yes"


def test_two_teams_install_their_own_without_being_administrators(
    control_plane: ControlPlane, offline: Helm, helm: Helm, tmp_path: Path
) -> None:
    """Each in namespaces of its own, with Roles; the administrator brings the CRD and nothing else."""
    cluster = control_plane
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", CHART / "files" / "crd.yaml")
    for team in ("one", "two"):
        space(cluster, f"home-{team}", f"work-{team}")
        claim(cluster, f"work-{team}")
        install_as_team(cluster, team, tmp_path)
    with running(cluster, "home-one", tmp_path / "one"), running(cluster, "home-two", tmp_path / "two"):
        for team in ("one", "two"):
            cluster.apply(smallest(namespace=f"work-{team}", **SERVICE))
        for team in ("one", "two"):
            wait_for(cluster, f"work-{team}", "Ready")
    for team, other in (("one", "two"), ("two", "one")):
        user = f"system:serviceaccount:home-{team}:zimage-operator"
        asked = [entry for entry in cluster.audit() if entry["user"]["username"] == user]
        assert {entry["objectRef"].get("namespace") for entry in asked if "objectRef" in entry} == {
            f"home-{team}",
            f"work-{team}",
        }
        assert not [entry for entry in asked if f"work-{other}" in entry["requestURI"]]
        decision = "authorization.k8s.io/decision"
        assert [entry["requestURI"] for entry in asked if entry["annotations"].get(decision) == "forbid"] == []
        cluster.kubectl("-n", f"work-{team}", "delete", "zis", "studio")
        helm("uninstall", "zimage-operator", "-n", f"home-{team}", *WAIT)


def install_as_team(cluster: ControlPlane, team: str, tmp_path: Path) -> None:
    """As a ServiceAccount that is `admin` in two namespaces, and holds what it gives to the operator."""
    home, work = f"home-{team}", f"work-{team}"
    cluster.kubectl("-n", home, "create", "serviceaccount", "deployer")
    account = f"{home}:deployer"
    for place in (home, work):
        bind = ("create", "rolebinding", "admin", "--clusterrole=admin", f"--serviceaccount={account}")
        cluster.kubectl("-n", place, *bind)
    rights = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
    for place, extra in ((work, rights["namespace"] + AUTHOR), (home, rights["own"] + AUTHOR)):
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role"}
        cluster.apply({**role, "metadata": {"name": "deployer", "namespace": place}, "rules": extra})
        bind = ("create", "rolebinding", "deployer", "--role=deployer", f"--serviceaccount={account}")
        cluster.kubectl("-n", place, *bind)
    # One of them still has helm 3.
    mine = Helm(tmp_path / team, cluster, cluster.kubeconfig_for(home, "deployer"), major=4 if team == "one" else 3)
    values = {
        "settings.watchNamespaces": [work],
        "settings.ingressClasses": {"traefik": "traefik.io/ingress-controller"},
    }
    # As it is it asks for what is the whole cluster's, and says so before it changes anything.
    refused = mine.run("install", "zimage-operator", CHART, "-n", home, *told(values))
    assert refused.returncode
    assert CRD in refused.stderr
    without = {"crds.install": False, "admissionPolicy.enabled": False}
    mine("install", "zimage-operator", CHART, "-n", home, *WAIT, *told({**values, **without}))


# What the chart's own test may do, and its giver has to hold.
AUTHOR = [{"apiGroups": ["zimage.dev"], "resources": ["zimageservices"], "verbs": ["create", "get", "delete"]}]


def test_helm_test_passes_with_an_operator_and_fails_without(
    control_plane: ControlPlane, helm: Helm, tmp_path: Path
) -> None:
    """The fake node runs no image, so the script runs here, with the rights and values that helm gives it."""
    cluster, home = control_plane, "tried"
    space(cluster, home)
    # Over what was applied by hand: the way from the plain manifests to the chart.
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", CHART / "files" / "crd.yaml")
    take = ("--take-ownership", "--force-conflicts")
    helm("install", "zimage-operator", CHART, "-n", home, *take, *WAIT, *told({"settings.watchNamespaces": [home]}))
    hooks = [item for item in yaml.safe_load_all(helm("get", "hooks", "zimage-operator", "-n", home)) if item]
    cluster.apply(*(item for item in hooks if item["kind"] != "Pod"))
    (pod,) = (item for item in hooks if item["kind"] == "Pod")
    # The API server's own judgement of the pod, in a namespace that admits restricted ones only.
    cluster.apply(pod)
    cluster.kubectl("-n", home, "delete", "pod", pod["metadata"]["name"], "--force")
    with running(cluster, home, tmp_path / "operator"):
        answer = smoke(cluster, pod, home)
        assert (answer.returncode, answer.stderr) == (0, "")
        assert f"a service in {home} was walled in" in answer.stdout
    assert cluster.get("zis", "-n", home)["items"] == []
    refused = smoke(cluster, pod, home, PATIENCE_SECONDS="1")
    assert refused.returncode == 1
    assert "is an operator ready" in refused.stderr
    assert cluster.get("zis", "-n", home)["items"] == []
    helm("uninstall", "zimage-operator", "-n", home, *WAIT)


def smoke(cluster: ControlPlane, pod: dict[str, Any], home: str, **more: str) -> subprocess.CompletedProcess[str]:
    spec = pod["spec"]
    settings = {item["name"]: item["value"] for item in spec["containers"][0]["env"]}
    kubeconfig = cluster.kubeconfig_for(home, spec["serviceAccountName"])
    environment = {**os.environ, **settings, "KUBECONFIG": str(kubeconfig), **more}
    command = [sys.executable, CHART / "files" / "smoke.py"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)


def test_objects_of_the_prometheus_operator_are_taken(control_plane: ControlPlane, offline: Helm) -> None:
    """Its own CRDs judge them, field by field."""
    cluster = control_plane
    cluster.kubectl("apply", "--server-side", *(part for path in binaries.monitoring_crds() for part in ("-f", path)))
    space(cluster, "watched")
    items = offline.render({"monitoring": {"podMonitors": True, "alerts": True}}, "-n", "watched")
    ours = [item for item in items if item["apiVersion"].startswith("monitoring.coreos.com")]
    assert len(ours) == 3

    def taken() -> bool:
        return bool(cluster.run([cluster.facts["kubectl"], "get", "podmonitors,prometheusrules", "-A"]).returncode == 0)

    eventually(taken, "the CRDs are served")
    text = yaml.safe_dump_all(ours)
    shown = cluster.kubectl("create", "--validate=strict", "--dry-run=server", "-f", "-", input=text)
    assert shown.count("created") == 3
