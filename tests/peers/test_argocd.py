"""Argo CD: an Application is as healthy as its service, what Git says comes back, and at rest nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from recorder import Recorder
from support import claim, eventually

from .gitops import (
    PRODUCTION,
    REFUSED,
    STALLED,
    STUDIO,
    TEAM,
    Repository,
    Story,
    at_rest,
    everything,
    owned,
    service,
    serving,
    vault_answers,
    word,
    workers,
)
from .gitops_argocd import SYSTEM, ArgoCD

# The time limit is for the test: a cold start builds Argo CD for minutes.
pytestmark = [pytest.mark.peers, pytest.mark.timeout(300, func_only=True)]


@pytest.fixture(scope="module")
def argocd(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArgoCD]:
    running = ArgoCD(cluster, tmp_path_factory.mktemp("argocd"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def services(cluster: ControlPlane) -> Recorder:
    return Recorder(cluster, "/apis/zimage.dev/v1alpha1/zimageservices")


@pytest.fixture(scope="module")
def applications(cluster: ControlPlane, argocd: ArgoCD) -> Recorder:
    return Recorder(cluster, f"/apis/argoproj.io/v1alpha1/namespaces/{SYSTEM}/applications")


@pytest.fixture(scope="module")
def story(
    cluster: ControlPlane, argocd: ArgoCD, repository: Repository, services: Recorder, applications: Recorder
) -> Story:
    """The first sync of the example, from nothing: each version of the service and of the Application."""
    for name in ("platform", "team-a"):
        argocd.create(repository, f"clusters/argocd/{name}.yaml")
    argocd.wait_for("platform", repository.first, "Synced", "Healthy")
    argocd.wait_for(PRODUCTION, repository.first, "Synced", "Progressing")
    vault_answers(cluster)
    eventually(lambda: "False" in map(word, cluster.get("zis", "-A")["items"]), "it stands without its volume")
    # It is not healthy for as long as nobody gives it the volume.
    claim(cluster, TEAM)
    argocd.wait_for(PRODUCTION, repository.first, "Synced", "Healthy")
    services.catch_up()
    applications.catch_up()
    return {"services": services.versions(TEAM), "applications": applications.versions(SYSTEM, PRODUCTION)}


@pytest.fixture
def synced(cluster: ControlPlane, argocd: ArgoCD, repository: Repository, story: Story) -> Repository:
    """The repository as in the beginning, and everything in it Healthy."""
    argocd.wait_for(PRODUCTION, repository.reset(), "Synced", "Healthy")
    eventually(lambda: serving(cluster), "the service is Ready")
    return repository


def health(item: dict[str, Any]) -> str:
    return str(item.get("status", {}).get("health", {}).get("status", ""))


def version(item: dict[str, Any]) -> int:
    """Where in the one history of etcd, of all kinds, it was written."""
    return int(item["metadata"]["resourceVersion"])


def test_an_application_is_healthy_only_when_the_service_is(story: Story) -> None:
    at_last = min(version(item) for item in story["services"] if word(item) == "True")
    applied = min(version(item) for item in story["services"])
    said = [(version(item), health(item)) for item in story["applications"]]
    assert [one for one in said if one[1] == "Healthy" and applied < one[0] < at_last] == []
    assert [one for one in said if one[1] == "Progressing" and applied < one[0] < at_last]
    assert said[-1][1] == "Healthy"


def test_at_rest_nothing_is_out_of_sync_and_nothing_is_written(
    synced: Repository, cluster: ControlPlane, argocd: ArgoCD, applications: Recorder
) -> None:
    versions = at_rest(cluster)
    before, seen = len(cluster.audit()), len(applications.events)
    for how in ("normal", "normal", "hard"):
        argocd.refresh(PRODUCTION, how)
    applications.catch_up()
    since = [item for _, item in applications.events[seen:] if item["metadata"]["name"] == PRODUCTION]
    assert {item["status"]["sync"]["status"] for item in since} == {"Synced"}
    asked = [item["requestURI"] for item in cluster.audit()[before:] if item["verb"] in ("create", "patch", "update")]
    ours = [uri for uri in asked if "/zimage.dev/" in uri]
    # It asks what an apply would change, and that is nothing.
    assert ours
    assert [uri for uri in ours if "dryRun=All" not in uri] == []
    assert everything(cluster) == versions


def test_a_change_by_hand_goes_back(synced: Repository, cluster: ControlPlane, argocd: ArgoCD) -> None:
    spec = service(cluster)["spec"]
    change(cluster, ingress={"host": "elsewhere.example.org"})
    assert service(cluster)["metadata"]["generation"] > 1
    eventually(lambda: service(cluster)["spec"] == spec, "what Git says is back")
    eventually(lambda: serving(cluster), "and Ready")


def test_what_git_does_not_say_is_left_alone(synced: Repository, cluster: ControlPlane, argocd: ArgoCD) -> None:
    """`replicas` is not in Git: kubectl scale, or an autoscaler, has it."""
    cluster.kubectl("-n", TEAM, "scale", "zis", "studio", "--replicas=2")
    commit = synced.commit("another commit, and the same manifests")
    argocd.wait_for(PRODUCTION, commit, "Synced", "Healthy")
    argocd.refresh(PRODUCTION, "hard")
    assert argocd.application(PRODUCTION)["status"]["sync"]["status"] == "Synced"
    assert service(cluster)["spec"]["replicas"] == 2
    cluster.kubectl("-n", TEAM, "scale", "zis", "studio", "--replicas=1")
    eventually(lambda: len(workers(cluster)) == 2, "one Deployment and one pod")


def test_a_commit_that_the_api_server_refuses(synced: Repository, cluster: ControlPlane, argocd: ArgoCD) -> None:
    before, spec = workers(cluster), service(cluster)["spec"]
    bad = synced.append(STUDIO, REFUSED)
    assert "spec.replicas" in argocd.wait_for_refusal(PRODUCTION, bad)
    assert (service(cluster)["spec"], serving(cluster), workers(cluster)) == (spec, True, before)
    argocd.wait_for(PRODUCTION, synced.reset(), "Synced", "Healthy")
    assert workers(cluster) == before


def test_a_commit_that_only_the_operator_can_refuse(synced: Repository, cluster: ControlPlane, argocd: ArgoCD) -> None:
    before = workers(cluster)
    bad = synced.append(STUDIO, STALLED)
    argocd.wait_for(PRODUCTION, bad, "Synced", "Degraded")
    found = {one["type"]: one["reason"] for one in service(cluster)["status"]["conditions"]}
    assert (found["Stalled"], workers(cluster)) == ("DoesNotFit", before)
    argocd.wait_for(PRODUCTION, synced.reset(), "Synced", "Healthy")
    eventually(lambda: serving(cluster), "the service is Ready")
    assert workers(cluster) == before


def test_a_team_may_commit_what_its_role_allows(synced: Repository, cluster: ControlPlane, argocd: ArgoCD) -> None:
    """Argo CD writes in the team's name (destinationServiceAccounts), and the project names the kinds."""
    base = synced.folder / STUDIO
    base.write_text(base.read_text().replace("studio-users", "passwords-of-others"))
    message = argocd.wait_for_refusal(PRODUCTION, synced.commit("the Secret of others"))
    assert "you may not read Secret passwords-of-others in namespace team-a" in message
    synced.reset()
    secret = synced.folder / "teams/team-a/production/studio-users.yaml"
    secret.write_text("apiVersion: v1\nkind: Secret\nmetadata: {name: studio-users}\n")
    message = argocd.wait_for_refusal(PRODUCTION, synced.commit("a Secret in Git"))
    assert "not permitted in project team-a" in message
    assert cluster.kubectl("-n", TEAM, "get", "secret", "studio-users", "--ignore-not-found") == ""


def test_a_service_moves_to_another_application(synced: Repository, cluster: ControlPlane, argocd: ArgoCD) -> None:
    """First a commit that says that pruning spares it, then the move: whoever syncs first, nobody restarts."""
    before = workers(cluster)
    base = synced.folder / STUDIO
    text = base.read_text()
    spared = "metadata: {name: studio, annotations: {argocd.argoproj.io/sync-options: Prune=false}}"
    base.write_text(text.replace("metadata: {name: studio}", spared))
    argocd.wait_for(PRODUCTION, synced.commit("spared"), "Synced", "Healthy")
    base.write_text(text)
    moved = synced.move("teams/team-a/other")
    # The old owner first: the worse order. It says that there is something it would prune.
    argocd.refresh(PRODUCTION)
    eventually(lambda: argocd.application(PRODUCTION)["status"]["sync"]["status"] == "OutOfSync", "it lets go")
    argocd.create(
        synced,
        "clusters/argocd/team-a.yaml",
        **{"name: team-a-production": "name: team-a-other", "teams/team-a/production": "teams/team-a/other"},
    )
    argocd.wait_for("team-a-other", moved, "Synced", "Healthy")
    argocd.wait_for(PRODUCTION, moved, "Synced", "Healthy")
    found = service(cluster)["metadata"]["annotations"]
    assert found["argocd.argoproj.io/tracking-id"].startswith("team-a-other:")
    assert workers(cluster) == before
    # Without its finalizer an Application leaves behind what it has made; the next commit takes the service back.
    cluster.kubectl("-n", SYSTEM, "delete", "application", "team-a-other")


def test_prune_takes_the_service_and_its_children(synced: Repository, cluster: ControlPlane, argocd: ArgoCD) -> None:
    assert len(owned(cluster)) > 5
    argocd.wait_for(PRODUCTION, synced.remove(), "Synced", "Healthy")
    eventually(lambda: cluster.get("zis", "-n", TEAM)["items"] == [], "the service is gone")
    # The garbage collector may take forty seconds for a kind that is new to it.
    eventually(lambda: owned(cluster) == [], "its children are gone", 120)
    # What the team keeps in Git stays, and so does the model.
    assert cluster.kubectl("-n", TEAM, "get", "externalsecret", "studio-users", "-o", "name")
    assert cluster.kubectl("-n", TEAM, "get", "pvc", "z-image-turbo", "-o", "name")


def test_argo_s_own_judge_says_what_the_table_says(
    synced: Repository, cluster: ControlPlane, argocd: ArgoCD, services: Recorder
) -> None:
    """Every kind of status that this file has seen; what Git does not say may be changed by hand."""
    change(cluster, gpu={"memory": "24Gi"}, generation={"maxPixels": 16777216})
    eventually(lambda: any(told(item)[2] for item in services.versions(TEAM)), "it was Stalled")
    change(cluster, gpu=None, generation=None, suspend=True)
    eventually(lambda: any(told(item)[1] == "Suspended" for item in services.versions(TEAM)), "it was suspended")
    change(cluster, suspend=None)
    samples = {told(item): item for item in services.versions(TEAM)}
    judged = {kind: argocd.judge(item) for kind, item in samples.items()}
    assert judged == {kind: expected(kind) for kind in samples}
    assert set(judged.values()) == {"Healthy", "Suspended", "Degraded", "Progressing"}


def change(cluster: ControlPlane, **spec: Any) -> None:
    """Change fields by hand; None takes one out."""
    cluster.kubectl("-n", TEAM, "patch", "zis", "studio", "--type=merge", "-p", json.dumps({"spec": spec}))


def told(item: dict[str, Any]) -> tuple[str, str, bool, bool]:
    """What a status says, as far as it matters: Ready and its reason, Stalled, whether it is of this generation."""
    status = item["status"]
    found = {one["type"]: one for one in status.get("conditions", [])}
    ready = found.get("Ready", {"status": "", "reason": ""})
    current = status["observedGeneration"] == item["metadata"]["generation"]
    return ready["status"], ready["reason"], found.get("Stalled", {}).get("status") == "True", current


def expected(kind: tuple[str, str, bool, bool]) -> str:
    """The table of docs/gitops/README.md."""
    ready, reason, stalled, current = kind
    if not current or (ready != "True" and not stalled):
        return "Progressing"
    if stalled:
        return "Degraded"
    return "Suspended" if reason == "Suspended" else "Healthy"
