"""The demo's last screen as tests: the real node, our images, Traefik, Calico, the real pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.node import Node
from demo import proof, scene

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def stage(node: Node) -> scene.Scene:
    """The service of the sample, ready and shown to be closed."""
    stage = scene.prepare(node)
    node.apply(scene.resource())
    scene.wait(lambda: stage.ready().get("status") == "True", "the service is ready")
    conditions = stage.service()["status"]["conditions"]
    found = {item["type"]: item["reason"] for item in conditions}
    # Read off the worker's posture and off the probe, by the operator in its pod.
    assert found["AuthConfigured"] == "Loaded"
    assert found["CertificateReady"] == "Loaded"
    scene.wait(lambda: reason(stage, "NetworkPolicyEnforced") == "Enforced", "the policy is seen to be enforced")
    return stage


def reason(stage: scene.Scene, kind: str) -> str:
    conditions = stage.service()["status"]["conditions"]
    return next((str(item["reason"]) for item in conditions if item["type"] == kind), "")


@pytest.mark.parametrize("line", proof.LINES)
def test_line(stage: scene.Scene, line: str, tmp_path: Path) -> None:
    assert proof.LINES[line](stage, tmp_path / "image.png")


def test_a_missing_secret_is_named_and_mended(stage: scene.Scene) -> None:
    """Rotation included: the kubelet brings the file, the worker reads it, the operator reports it."""
    secret = stage.node.get("secret", "studio-users", "-n", scene.NAMESPACE)
    stage.node.kubectl("-n", scene.NAMESPACE, "delete", "secret", "studio-users")
    scene.wait(lambda: reason(stage, "AuthConfigured") == "SecretMissing", "the missing Secret is named", 200)
    code, _ = stage.curl("-u", f"{scene.USER}:{stage.password}")
    assert code != 200
    stage.node.apply(scene.secret("studio-users", {"auth": b""}) | {"data": secret["data"]})
    scene.wait(lambda: reason(stage, "AuthConfigured") == "Loaded", "the Secret is back", 200)


def test_delete_leaves_nothing(stage: scene.Scene) -> None:
    assert proof.nothing_is_left(stage)
