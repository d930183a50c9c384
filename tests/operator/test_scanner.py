"""checkov's Kubernetes policies over everything that is shipped or built; what it finds stands here with a reason.

It runs with its own checks only and asks its vendor nothing. It pins old libraries, so it has an environment of
its own in the cache folder, beside the cluster's programs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.binaries import CACHE, locked
from support import ROOT

LOCK = Path(__file__).with_name("checkov.txt")
WORKER, OPERATOR = "Deployment.team-a.studio", "Deployment.zimage-system.zimage-operator"
FETCHED, MIRRORED = "Job.team-a.studio-download-651b97952b", "Job.team-a.studio-download-d0d9cb8af1"
# Check and object, and why we do otherwise. A line that is no longer needed fails the test too.
WAIVED = {
    ("CKV_K8S_11", WORKER): "a limit on the CPU makes requests late and nothing safe; the user may set one",
    ("CKV_K8S_11", OPERATOR): "throttled, it would lose its Lease; requests keep its share",
    ("CKV_K8S_11", FETCHED): "as for the workers",
    ("CKV_K8S_11", MIRRORED): "as for the workers",
    ("CKV_K8S_15", FETCHED): "as for the workers",
    ("CKV_K8S_43", FETCHED): "as for the workers",
    ("CKV_K8S_15", WORKER): "the image is named by digest or tag: a restart must not depend on the registry",
    ("CKV_K8S_15", OPERATOR): "the same",
    ("CKV_K8S_38", OPERATOR): "it talks to the API server: the one pod of all that needs its token",
    ("CKV_K8S_43", WORKER): "the release job writes the digest; an own image may have a tag",
    ("CKV_K8S_43", OPERATOR): "the release job writes the digest",
    (
        "CKV2_K8S_6",
        "Pod.zimage-system.zimage-operator.app.kubernetes.io/name-zimage-operator",
    ): "whom it may reach (API server, every worker) depends on the cluster: the chart brings its policy",
}
# What must be found, or the scanner looked at nothing.
SEEDED = """\
apiVersion: v1
kind: Pod
metadata: {name: seeded, namespace: team-a}
spec:
  hostNetwork: true
  containers:
  - {name: main, image: "nginx:latest", securityContext: {privileged: true}}
"""
MUST_FIND = {("CKV_K8S_16", "Pod.team-a.seeded"), ("CKV_K8S_19", "Pod.team-a.seeded")}


def scanner() -> Path:
    """The scanner, installed at its first use from the locked list."""
    folder = CACHE / "tools" / f"checkov-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    program = folder / "bin" / "checkov"
    with locked(CACHE / "lock" / "checkov"):
        if not (folder / "complete").exists():
            uv = [shutil.which("uv") or str(Path(sys.executable).with_name("uv"))]
            subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
            install = ["pip", "install", "--quiet", "--require-hashes", "--python", str(folder / "bin" / "python")]
            subprocess.run([*uv, *install, "-r", LOCK], check=True)
            (folder / "complete").touch()
    return program


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """Every finding as check and object, over the golden children and both installations."""
    folder = tmp_path_factory.mktemp("scanned")
    for path in (ROOT / "tests" / "operator" / "golden").glob("*/children.yaml"):
        (folder / f"{path.parent.name}.yaml").write_text(path.read_text())
    for name in ("install.yaml", "install-namespaced.yaml", "admission-policy.yaml"):
        (folder / name).write_text((ROOT / "operator" / name).read_text())
    (folder / "seeded.yaml").write_text(SEEDED)
    try:
        program = scanner()
    except (OSError, subprocess.CalledProcessError) as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"checkov cannot be installed: {error}")
    # Root can take the network away from it altogether.
    apart = ["unshare", "--net"] if os.geteuid() == 0 else []
    options = ["--framework", "kubernetes", "--skip-download", "--quiet", "--compact", "--output", "json"]
    command = [*apart, str(program), "--directory", str(folder), *options]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(answer.stdout)
    assert report["summary"]["parsing_errors"] == 0
    return {(item["check_id"], item["resource"]) for item in report["results"]["failed_checks"]}


def test_the_scanner_sees_a_bad_pod(found: set[tuple[str, str]]) -> None:
    assert found >= MUST_FIND


def test_every_finding_has_its_reason_and_no_reason_is_idle(found: set[tuple[str, str]]) -> None:
    assert {finding for finding in found if "seeded" not in finding[1]} == set(WAIVED)
