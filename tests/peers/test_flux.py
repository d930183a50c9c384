"""Flux: a Kustomization with `wait: true` says of a service what the service says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cluster.control_plane import ControlPlane
from recorder import Recorder
from support import claim, eventually

from .gitops import (
    EXAMPLE,
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
    word,
    workers,
)
from .gitops_flux import SYSTEM, Flux

# The time limit is for the test: a cold start builds the controller for minutes.
pytestmark = [pytest.mark.peers, pytest.mark.timeout(300, func_only=True)]


@pytest.fixture(scope="module")
def flux(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flux]:
    running = Flux(cluster, tmp_path_factory.mktemp("flux"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def story(cluster: ControlPlane, flux: Flux, repository: Repository) -> Story:
    """The first sync of the example, from nothing: each version of the service and of the Kustomization."""
    services = Recorder(cluster, "/apis/zimage.dev/v1alpha1/zimageservices")
    flux.publish(repository.folder, repository.first)
    for name in ("platform", "team-a"):
        cluster.apply(*repository.documents(f"clusters/flux/{name}.yaml"))
    kustomizations = Recorder(cluster, f"/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/{SYSTEM}/kustomizations")
    eventually(lambda: "False" in map(word, cluster.get("zis", "-A")["items"]), "it stands without its volume")
    # It is not ready for as long as nobody gives it the volume; nothing but that is missed.
    claim(cluster, TEAM)
    flux.wait_for(PRODUCTION, f"main@sha1:{repository.first}", "True", "ReconciliationSucceeded")
    services.catch_up()
    kustomizations.catch_up()
    return {"services": services.versions(TEAM), "kustomizations": kustomizations.versions(SYSTEM, PRODUCTION)}


@pytest.fixture
def synced(cluster: ControlPlane, flux: Flux, repository: Repository, story: Story) -> Repository:
    """The repository as in the beginning, and everything in it Ready."""
    again = flux.publish(repository.folder, repository.reset())
    flux.wait_for(PRODUCTION, again, "True", "ReconciliationSucceeded")
    eventually(lambda: serving(cluster), "the service is Ready")
    return repository


def version(item: dict[str, Any]) -> int:
    """Where in the one history of etcd, of all kinds, it was written."""
    return int(item["metadata"]["resourceVersion"])


def test_a_kustomization_is_ready_only_when_the_service_is(story: Story) -> None:
    at_last = min(version(item) for item in story["services"] if word(item) == "True")
    before = {word(item) for item in story["services"] if version(item) < at_last}
    assert "False" in before
    said = [(version(item), word(item)) for item in story["kustomizations"]]
    assert [one for one in said if one[1] == "True" and one[0] < at_last] == []
    # It was there all that time, and waited.
    assert [one for one in said if one[1] == "Unknown" and one[0] < at_last]
    assert said[-1][1] == "True"


def test_every_overlay_is_one_that_the_api_server_takes(story: Story, cluster: ControlPlane) -> None:
    """Staging, with its SealedSecret, is synced by no test."""
    for overlay in ("platform", "teams/team-a/production", "teams/team-a/staging"):
        text = cluster.kubectl("kustomize", EXAMPLE / overlay)
        # Not in Flux's name: whose fields they are is not the question.
        answer = cluster.kubectl(
            "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", input=text
        )
        assert len(answer.splitlines()) == len(list(yaml.safe_load_all(text))) > 1


def test_more_reconciliations_write_nothing(synced: Repository, cluster: ControlPlane, flux: Flux) -> None:
    versions = at_rest(cluster)
    before = len(cluster.audit())
    flux.again(PRODUCTION)
    flux.again(PRODUCTION)
    since = [item for item in cluster.audit()[before:] if item.get("impersonatedUser")]
    # It did ask, in the team's name, what an apply would change.
    assert {item["impersonatedUser"]["username"] for item in since} == {f"system:serviceaccount:{SYSTEM}:team-a"}
    assert any("dryRun=All" in item["requestURI"] for item in since)
    writes = [item["requestURI"] for item in since if item["verb"] not in ("get", "list", "watch")]
    assert [uri for uri in writes if "dryRun=All" not in uri] == []
    assert everything(cluster) == versions


def test_a_commit_that_the_api_server_refuses(synced: Repository, cluster: ControlPlane, flux: Flux) -> None:
    before, spec = workers(cluster), service(cluster)["spec"]
    bad = flux.publish(synced.folder, synced.append(STUDIO, REFUSED))
    message = flux.wait_for(PRODUCTION, bad, "False", "ReconciliationFailed")
    assert "spec.replicas" in message
    # The old version serves on.
    assert (service(cluster)["spec"], serving(cluster), workers(cluster)) == (spec, True, before)
    good = flux.publish(synced.folder, synced.reset())
    flux.wait_for(PRODUCTION, good, "True", "ReconciliationSucceeded")
    assert workers(cluster) == before


def test_a_commit_that_only_the_operator_can_refuse(synced: Repository, cluster: ControlPlane, flux: Flux) -> None:
    before = workers(cluster)
    bad = flux.publish(synced.folder, synced.append(STUDIO, STALLED))
    # At once, not after the Kustomization's half an hour.
    message = flux.wait_for(PRODUCTION, bad, "False", "HealthCheckFailed")
    assert "ZImageService/team-a/studio" in message
    assert "Failed" in message
    found = {one["type"]: one["reason"] for one in service(cluster)["status"]["conditions"]}
    assert found["Stalled"] == "DoesNotFit"
    assert workers(cluster) == before
    good = flux.publish(synced.folder, synced.reset())
    flux.wait_for(PRODUCTION, good, "True", "ReconciliationSucceeded")
    eventually(lambda: serving(cluster), "the service is Ready")
    assert workers(cluster) == before


def test_a_commit_that_hangs_is_overtaken(synced: Repository, cluster: ControlPlane, flux: Flux) -> None:
    """With the feature gate CancelHealthCheckOnNewRevision: the Kustomization's own time limit is half an hour."""
    bad = flux.publish(synced.folder, synced.append(STUDIO, "  scheduling: {nodeSelector: {no: such-node}}\n"))
    eventually(lambda: word(service(cluster)) == "False", "it waits for a node")
    flux.wait_for(PRODUCTION, bad, "Unknown", "Progressing")
    good = flux.publish(synced.folder, synced.reset())
    flux.wait_for(PRODUCTION, good, "True", "ReconciliationSucceeded")
    eventually(lambda: serving(cluster), "the service is Ready")


def test_a_team_may_commit_what_its_role_allows(synced: Repository, cluster: ControlPlane, flux: Flux) -> None:
    """platform/team-a.yaml: without it a commit of the team would be written by an administrator."""
    other = synced.folder / STUDIO
    other.write_text(other.read_text().replace("studio-users", "passwords-of-others"))
    foreign = flux.publish(synced.folder, synced.commit("the Secret of others"))
    message = flux.wait_for(PRODUCTION, foreign, "False", "ReconciliationFailed")
    assert "you may not read Secret passwords-of-others in namespace team-a" in message
    synced.reset()
    secret = synced.folder / "teams/team-a/production/studio-users.yaml"
    secret.write_text("apiVersion: v1\nkind: Secret\nmetadata: {name: studio-users}\n")
    plain = flux.publish(synced.folder, synced.commit("a Secret in Git"))
    message = flux.wait_for(PRODUCTION, plain, "False", "ReconciliationFailed")
    assert "forbidden" in message
    assert cluster.kubectl("-n", TEAM, "get", "secret", "studio-users", "--ignore-not-found") == ""


def test_a_service_moves_to_another_kustomization(synced: Repository, cluster: ControlPlane, flux: Flux) -> None:
    """First a commit that says that pruning spares it, then the move: whoever syncs first, nobody restarts."""
    before = workers(cluster)
    spared = "metadata: {name: studio, annotations: {kustomize.toolkit.fluxcd.io/prune: disabled}}"
    base = synced.folder / STUDIO
    text = base.read_text()
    base.write_text(text.replace("metadata: {name: studio}", spared))
    flux.wait_for(PRODUCTION, flux.publish(synced.folder, synced.commit("spared")), "True", "ReconciliationSucceeded")
    base.write_text(text)
    moved = flux.publish(synced.folder, synced.move("teams/team-a/other"))
    # The old owner first: the worse order.
    flux.wait_for(PRODUCTION, moved, "True", "ReconciliationSucceeded")
    other = synced.documents("clusters/flux/team-a.yaml")[1]
    other["metadata"]["name"] = "team-a-other"
    other["spec"]["path"] = "./teams/team-a/other"
    cluster.apply(other)
    flux.wait_for("team-a-other", moved, "True", "ReconciliationSucceeded")
    found = service(cluster)["metadata"]
    assert found["labels"]["kustomize.toolkit.fluxcd.io/name"] == "team-a-other"
    assert "kustomize.toolkit.fluxcd.io/prune" not in found.get("annotations", {})
    assert workers(cluster) == before
    cluster.kubectl("-n", SYSTEM, "delete", "kustomization", "team-a-other")
    eventually(lambda: not owned(cluster), "it takes the service with it", 120)


def test_prune_takes_the_service_and_its_children(synced: Repository, cluster: ControlPlane, flux: Flux) -> None:
    assert len(owned(cluster)) > 5
    gone = flux.publish(synced.folder, synced.remove())
    flux.wait_for(PRODUCTION, gone, "True", "ReconciliationSucceeded")
    eventually(lambda: cluster.get("zis", "-n", TEAM)["items"] == [], "the service is gone")
    # The garbage collector may take forty seconds for a kind that is new to it.
    eventually(lambda: owned(cluster) == [], "its children are gone", 120)
    # What the team keeps in Git stays, and so does the model.
    assert cluster.kubectl("-n", TEAM, "get", "externalsecret", "studio-users", "-o", "name")
    assert cluster.kubectl("-n", TEAM, "get", "pvc", "z-image-turbo", "-o", "name")
