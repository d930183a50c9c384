"""A newer operator restarts no worker by surprise: with the frozen children of former operators.

tests/operator/upgrade/VERSION/CASE holds what the operator VERSION made of a resource; tools/generate.py
--freeze VERSION writes it at a release, and nobody edits it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.control_plane import ControlPlane
from laws import conditions, exists, reason, wait_for
from support import Operator, claim, eventually
from zimage_operator.children.template import in_force, newest
from zimage_operator.manifest import Environment, Manifest, stamped
from zimage_operator.names import MANAGER, REVISION_ANNOTATION
from zimage_operator.observed import at
from zimage_operator.spec import parse

FROZEN = Path(__file__).parent / "upgrade"
CASES = sorted(str(path.parent.relative_to(FROZEN)) for path in FROZEN.glob("*/*/resource.yaml"))
# What the frozen operators started workers with, and what the one under test does.
FORMER, PRESENT = "ghcr.io/zimage-dev/zimage-worker:0.1.0", "ghcr.io/zimage-dev/zimage-worker:9.9.9"
ENVIRONMENT = Environment(PRESENT, "zimage-system", former_worker_images=(FORMER,))


def resource(case: str) -> dict[str, Any]:
    return dict(yaml.safe_load((FROZEN / case / "resource.yaml").read_text()))


def children(case: str) -> list[Manifest]:
    return list(yaml.safe_load_all((FROZEN / case / "children.yaml").read_text()))


def of_kind(items: list[Manifest], kind: str) -> Manifest:
    return next(item for item in items if item["kind"] == kind)


def revision(deployment: Manifest) -> str:
    return str(deployment["spec"]["template"]["metadata"]["annotations"][REVISION_ANNOTATION])


@pytest.mark.parametrize("case", CASES)
def test_a_former_template_is_built_again_to_the_letter(case: str) -> None:
    """Red when pod.py or configmap.py changed what they build, and children/template.py got no step back."""
    service = parse(resource(case))
    frozen = of_kind(children(case), "Deployment")
    kept = in_force(service, ENVIRONMENT, revision(frozen))
    assert kept.outdated
    template = frozen["spec"]["template"]["spec"]
    template["containers"][0].pop("env")
    assert kept.pod == template
    assert kept.settings == of_kind(children(case), "ConfigMap")["data"]


def test_what_no_operator_of_ours_has_built_is_never_kept() -> None:
    service, case = parse(resource(CASES[0])), CASES[0]
    former = revision(of_kind(children(case), "Deployment"))
    best = newest(service, ENVIRONMENT)
    assert in_force(service, ENVIRONMENT, "made up") == best
    # An image that this installation never ran, a changed spec, no worker, and whoever asked for it at once.
    assert in_force(service, Environment(PRESENT, "zimage-system"), former) == best
    changed = resource(case)
    changed["spec"]["generation"] = {"maxSteps": 7}
    assert not in_force(parse(changed), ENVIRONMENT, former).outdated
    changed = resource(case)
    changed["spec"]["replicas"] = 0
    assert not in_force(parse(changed), ENVIRONMENT, former).outdated
    at_once = Environment(PRESENT, "zimage-system", former_worker_images=(FORMER,), update_policy="Auto")
    assert in_force(service, at_once, former) == best


def test_more_workers_restart_none() -> None:
    body = resource(CASES[0])
    body["spec"]["replicas"] = 5
    assert in_force(parse(body), ENVIRONMENT, revision(of_kind(children(CASES[0]), "Deployment"))).outdated


# --- the same with a running operator -------------------------------------------------------


PLACE, CASE = "team-a", "0.1.0/no-gpu"


@pytest.fixture
def upgraded(operator: Operator) -> Iterator[dict[str, int]]:
    """The children of the former operator with a running worker; then the new operator starts.

    In the namespace of the frozen files: its name is part of what the worker was started with.
    """
    cluster = operator.cluster
    operator.stop_in_order()
    remember(cluster, FORMER)
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE}})
    claim(cluster, PLACE)
    body = resource(CASE)
    body["metadata"] = {"name": "studio", "namespace": PLACE}
    cluster.apply(body)
    owner = cluster.get("zis", "studio", "-n", PLACE)["metadata"]["uid"]
    for item in children(CASE):
        send_as_before(cluster, item, owner)
    eventually(lambda: len(ready(cluster)) == 1, "the former worker serves")
    operator.start_and_lead(ZIMAGE_OPERATOR_WORKER_IMAGE=PRESENT)
    yield ready(cluster)
    cluster.kubectl("-n", PLACE, "delete", "zis", "studio")
    eventually(lambda: not exists(cluster, PLACE, "deploy"), "everything is gone")
    operator.stop_in_order()
    # Other tests count on the released image.
    operator.start_and_lead()


def remember(cluster: ControlPlane, image: str) -> None:
    """What a former operator remembers of itself."""
    head = {"name": "zimage-operator-history", "namespace": "zimage-system"}
    data = {"workerImages": f"{image}\n"}
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": head, "data": data}
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(item))


def send_as_before(cluster: ControlPlane, item: Manifest, owner: str) -> None:
    """Apply a frozen child as the former operator did: its manager, its digest, the real owner."""
    item["metadata"]["ownerReferences"][0]["uid"] = owner
    command = ("apply", "--server-side", f"--field-manager={MANAGER}", "-f", "-")
    cluster.kubectl(*command, input=json.dumps(stamped(item)))


def ready(cluster: ControlPlane) -> dict[str, int]:
    """The worker pods that serve, by uid, with their restarts."""
    found = cluster.get("pods", "-n", PLACE)["items"]
    states = [(pod, {item["type"]: item["status"] for item in pod["status"].get("conditions", [])}) for pod in found]
    return {
        pod["metadata"]["uid"]: pod["status"]["containerStatuses"][0]["restartCount"]
        for pod, state in states
        if state.get("Ready") == "True"
    }


@pytest.mark.control_plane
def test_an_upgrade_restarts_no_worker_until_the_spec_changes(operator: Operator, upgraded: dict[str, int]) -> None:
    cluster = operator.cluster
    wait_for(cluster, PLACE, "OperatorUpgraded", "TemplateUpdateAvailable")
    wait_for(cluster, PLACE, "Ready")
    # A hand edit is put back, to the template that is in force.
    patch = '[{"op": "replace", "path": "/spec/strategy", "value": {"type": "RollingUpdate"}}]'
    cluster.kubectl("-n", PLACE, "patch", "deploy", "studio", "--type=json", "-p", patch)
    strategy = ("spec", "strategy", "type")
    eventually(lambda: at(cluster.get("deploy", "studio", "-n", PLACE), strategy) == "Recreate", "put back")
    # Another start of the new one, and a change that concerns no running worker: still the same pod.
    operator.stop_in_order()
    operator.start_and_lead(ZIMAGE_OPERATOR_WORKER_IMAGE=PRESENT)
    change(cluster, {"replicas": 2})
    eventually(lambda: len(ready(cluster)) == 2, "a second worker, of the former template")
    assert upgraded.items() <= ready(cluster).items()
    assert image(cluster) == FORMER
    assert reason(cluster, PLACE, "TemplateUpdateAvailable") == "OperatorUpgraded"

    change(cluster, {"generation": {"maxSteps": 7}})
    eventually(lambda: image(cluster) == PRESENT, "the change brings the new template")
    wait_for(cluster, PLACE, "Ready")
    eventually(lambda: "TemplateUpdateAvailable" not in conditions(cluster, PLACE), "nothing waits any more")

    # Whoever may edit the Deployment writes another image and the digest of a former template: it is put back.
    container = {"name": "worker", "image": "mallory:1"}
    annotations = {REVISION_ANNOTATION: revision(of_kind(children(CASE), "Deployment"))}
    template = {"metadata": {"annotations": annotations}, "spec": {"containers": [container]}}
    patch = json.dumps({"spec": {"template": template}})
    cluster.kubectl("-n", PLACE, "patch", "deploy", "studio", "--type=strategic", "-p", patch)
    eventually(lambda: image(cluster) == PRESENT, "the operator's own template again")
    wait_for(cluster, PLACE, "Ready")
    assert image(cluster) == PRESENT


def image(cluster: ControlPlane) -> str:
    path = ("spec", "template", "spec", "containers", "worker", "image")
    return str(at(cluster.get("deploy", "studio", "-n", PLACE), path))


def change(cluster: ControlPlane, spec: dict[str, Any]) -> None:
    cluster.kubectl("-n", PLACE, "patch", "zis", "studio", "--type=merge", "-p", json.dumps({"spec": spec}))
