"""The laws of status, held against every status that a test looks at, and the helpers that look."""

from __future__ import annotations

from typing import Any

from cluster.control_plane import ControlPlane
from support import PATIENCE_SECONDS, eventually, smallest


def conditions(cluster: ControlPlane, namespace: str, name: str = "studio") -> dict[str, dict[str, Any]]:
    """The conditions by type; every status that a test sees is held against the laws."""
    body = cluster.get("zis", name, "-n", namespace)
    found = {item["type"]: item for item in body["status"].get("conditions", [])}
    if found:
        assert_lawful(body, found)
    return found


def assert_lawful(body: dict[str, Any], found: dict[str, dict[str, Any]]) -> None:
    ready = found["Ready"]
    assert body["status"]["observedGeneration"] <= body["metadata"]["generation"]
    assert all(
        item["reason"] and item["observedGeneration"] <= body["metadata"]["generation"] for item in found.values()
    )
    assert "Stalled" not in found or ready["status"] != "True"
    assert "Reconciling" not in found or ready["status"] != "True"
    # The list and the condition are two views of one thing; neither speaks without the other.
    listed, declared = body["status"].get("exposures", []), found.get("ExposureAsDeclared")
    if declared:
        assert (declared["status"] == "False") == bool(listed)
        assert not listed or declared["reason"] == listed[0]["reason"]
    if ready["status"] == "True":
        gates = ("NetworkPolicyReady", "ModelReady", "WorkloadReady", "IngressReady")
        assert all(found[gate]["status"] == "True" for gate in gates if gate in found)


def reason(cluster: ControlPlane, namespace: str, type_: str = "Ready", name: str = "studio") -> str:
    return str(conditions(cluster, namespace, name).get(type_, {}).get("reason", ""))


def wait_for(
    cluster: ControlPlane,
    namespace: str,
    wanted: str,
    type_: str = "Ready",
    name: str = "studio",
    seconds: float = PATIENCE_SECONDS,
) -> None:
    message = f"{type_} {wanted} in {namespace}"
    try:
        eventually(lambda: reason(cluster, namespace, type_, name) == wanted, message, seconds)
    except AssertionError as error:
        seen = [
            f"{item['type']} {item['reason']}: {item['message']}"
            for item in conditions(cluster, namespace, name).values()
        ]
        pods = cluster.kubectl("get", "pods", "-A", "-o", "wide")
        node = (cluster.kubeconfig.parent / "fakenode.log").read_text()[-2000:]
        raise AssertionError("\n".join([str(error), *seen, pods, node])) from error


def serve(cluster: ControlPlane, namespace: str, **spec: Any) -> None:
    cluster.apply(smallest(namespace=namespace, **spec))
    wait_for(cluster, namespace, "Ready")


def exists(cluster: ControlPlane, namespace: str, kind: str, name: str = "studio") -> bool:
    return bool(cluster.kubectl("-n", namespace, "get", kind, name, "--ignore-not-found", "-o", "name").strip())
