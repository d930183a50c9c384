"""Fetched models on the real API server: its own Job and garbage collector decide; the fake node plays the fetch.

The fetch itself and its hub are real in tests/worker/test_fetch.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from laws import conditions, exists, reason, serve, wait_for
from played import fetching, finish, room
from support import Operator, eventually, smallest
from taken import lose_labels
from zimage_operator.models import Weights

pytestmark = pytest.mark.control_plane

REPO = "Tongyi-MAI/Z-Image-Turbo"
ONE, TWO = Weights(REPO, "1" * 40), Weights(REPO, "2" * 40)
CPU = {"gpu": {"count": 0}}


def hub(weights: Weights = ONE, **more: Any) -> dict[str, Any]:
    return {"model": {"huggingFace": {"repo": weights.repo, "revision": weights.revision, **more}}, **CPU}


def jobs(cluster: ControlPlane, namespace: str) -> dict[str, list[str]]:
    """The command lines of the download Jobs, by name."""
    found = cluster.get("jobs", "-n", namespace)["items"]
    return {
        item["metadata"]["name"]: item["spec"]["template"]["spec"]["containers"][0]["args"]
        for item in found
        if not item["metadata"].get("deletionTimestamp")
    }


def served(cluster: ControlPlane, namespace: str) -> dict[str, str]:
    """What each running worker was started with."""
    pods = cluster.get("pods", "-n", namespace, "-l", "app.kubernetes.io/component=worker")["items"]
    return {item["metadata"]["uid"]: item["metadata"]["annotations"]["zimage.dev/model"] for item in pods}


def test_a_model_is_fetched_served_and_followed_by_another(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    room(cluster, namespace)
    cluster.apply(smallest(namespace=namespace, **hub()))
    wait_for(cluster, namespace, "Downloading")
    lose_labels(cluster, namespace, "job,pvc", 2)
    assert not exists(cluster, namespace, "deploy")
    assert reason(cluster, namespace, "WorkloadReady") == "WaitingForModel"
    finish(cluster, namespace, ONE.revision)
    wait_for(cluster, namespace, "Ready")
    wait_for(cluster, namespace, "Fetched", "ModelReady")
    assert cluster.get("cm", "studio", "-n", namespace)["data"]["ZIMAGE_MODEL_PATH"] == f"/model/{ONE.folder}"
    assert cluster.get("zis", "studio", "-n", namespace)["status"]["model"] == {"revision": ONE.revision}
    first = served(cluster, namespace)
    assert list(first.values()) == [ONE.folder]

    # Another revision beside it, and another change at once: that one does not wait.
    cluster.apply(smallest(namespace=namespace, **hub(TWO), generation={"maxSteps": 7}))
    wait_for(cluster, namespace, "Downloading")
    settings = ("cm", "studio", "-n", namespace)
    eventually(lambda: cluster.get(*settings)["data"]["ZIMAGE_MAX_STEPS"] == "7", "the other change is in force")
    eventually(lambda: fetching(cluster, namespace, TWO.revision), "the second is fetched")
    assert cluster.get(*settings)["data"]["ZIMAGE_MODEL_PATH"] == f"/model/{ONE.folder}"
    eventually(lambda: list(served(cluster, namespace).values()) == [ONE.folder], "the first goes on")
    (args,) = [args for args in jobs(cluster, namespace).values() if TWO.revision in args]
    assert args[-2:] == ["--keep", ONE.folder]
    assert "--clear" in args
    finish(cluster, namespace, TWO.revision)
    eventually(lambda: list(served(cluster, namespace).values()) == [TWO.folder], "the second is served")
    wait_for(cluster, namespace, "Ready")
    assert cluster.get("zis", "studio", "-n", namespace)["status"]["model"] == {"revision": TWO.revision}
    # One Job is left: the record of what is served.
    eventually(lambda: [TWO.revision in args for args in jobs(cluster, namespace).values()] == [True], "one record")

    # Somebody clears finished Jobs away: what is served stays, and is checked again.
    before = served(cluster, namespace)
    cluster.kubectl("-n", namespace, "delete", "jobs", "--all")
    eventually(lambda: fetching(cluster, namespace, TWO.revision), "it is checked again")
    assert served(cluster, namespace) == before
    finish(cluster, namespace, TWO.revision)
    wait_for(cluster, namespace, "Ready")
    assert served(cluster, namespace) == before


def test_a_failed_fetch_says_why_and_is_tried_again(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    room(cluster, namespace)
    cluster.apply(smallest(namespace=namespace, **hub(tokenSecretName="hub-token")))
    # Hopeless: the Job's own policy gives up at once.
    finish(cluster, namespace, ONE.revision, code=10, reason="AuthRequired", message="the hub answered 401")
    wait_for(cluster, namespace, "AuthRequired")
    eventually(lambda: "tried again at" in conditions(cluster, namespace)["Ready"]["message"], "the Job was given up")
    message = conditions(cluster, namespace)["ModelReady"]["message"]
    assert "the hub answered 401; put a token that may read it into key `token` of Secret hub-token" in message
    (failed,) = jobs(cluster, namespace)
    assert f"kubectl -n {namespace} delete job {failed}" in message
    # What the message says to do.
    cluster.kubectl("-n", namespace, "delete", "job", failed)
    finish(cluster, namespace, ONE.revision)
    wait_for(cluster, namespace, "Ready")


def test_another_source_serves_until_the_fetch_is_complete_and_suspend_stops_it(
    operator: Operator, namespace: str
) -> None:
    cluster = operator.cluster
    serve(cluster, namespace, **CPU)
    pods = ("pods", "-n", namespace, "-l", "app.kubernetes.io/component=worker")
    before = [item["metadata"]["uid"] for item in cluster.get(*pods)["items"]]
    # Nothing provisions volumes here: it is said.
    cluster.apply(smallest(namespace=namespace, **hub()))
    wait_for(cluster, namespace, "VolumePending")
    assert "describe pvc studio-model" in conditions(cluster, namespace)["Ready"]["message"]
    assert [item["metadata"]["uid"] for item in cluster.get(*pods)["items"]] == before
    assert exists(cluster, namespace, "ing")
    cluster.apply(smallest(namespace=namespace, **hub(), suspend=True))
    wait_for(cluster, namespace, "Suspended")
    assert cluster.get("pods", "-n", namespace)["items"] == []
    room(cluster, namespace)
    cluster.apply(smallest(namespace=namespace, **hub()))
    eventually(lambda: fetching(cluster, namespace, ONE.revision), "the fetch runs")
    wait_for(cluster, namespace, "Downloading")
    # Never mind: the volume stays, the fetch does not.
    cluster.apply(smallest(namespace=namespace, **CPU))
    wait_for(cluster, namespace, "Ready")
    eventually(lambda: not jobs(cluster, namespace), "no Job is left")
    assert "ModelReady" not in conditions(cluster, namespace)
    assert exists(cluster, namespace, "pvc", "studio-model")


def test_what_cannot_fit_the_stated_memory_stalls_and_touches_nothing(operator: Operator, namespace: str) -> None:
    cluster = operator.cluster
    cluster.apply(smallest(namespace=namespace, replicas=0, gpu={"memory": "24Gi"}))
    wait_for(cluster, namespace, "Ready")
    before = cluster.get("cm", "studio", "-n", namespace)
    assert before["data"]["ZIMAGE_GPU_MEMORY"] == str(24 * 2**30)
    large = {"gpu": {"memory": "24Gi"}, "generation": {"maxPixels": 16777216}}
    cluster.apply(smallest(namespace=namespace, replicas=0, **large))
    wait_for(cluster, namespace, "DoesNotFit")
    found = conditions(cluster, namespace)
    assert (found["Ready"]["status"], found["Stalled"]["reason"]) == ("False", "DoesNotFit")
    assert "write at most 10758400, or more memory" in found["Ready"]["message"]
    assert cluster.get("cm", "studio", "-n", namespace)["metadata"]["uid"] == before["metadata"]["uid"]
    assert cluster.get("cm", "studio", "-n", namespace)["data"] == before["data"]
    cluster.apply(smallest(namespace=namespace, replicas=0, gpu={"memory": "80Gi"}))
    wait_for(cluster, namespace, "Ready")
