"""Every reason that a status can give, and where a test causes it for real.

What the code can say is read off the code, so a new reason without a line here fails (test_reasons.py).
That the tests of a group have really caused theirs is judged by what was seen at its end: in
test_whole_run.py, and at the ends of test_proof.py, test_demo.py and test_models.py.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from support import ROOT
from zimage_operator.exposure import ORDER
from zimage_operator.model_status import EXITS
from zimage_worker.certificate import Reason as CertificateReason
from zimage_worker.problems import Reason as CredentialReason

# By the real API server, controllers and scheduler: tests/operator without a node.
CONTROL_PLANE = {
    *("Ready", "Applied", "Progressing", "Available", "ScaledToZero", "Published", "Suspended", "Stopping", "Applying"),
    *("NotProbed", "Waived", "AsDeclared", "OperatorUpgraded", "WaitingForWorker", "IssuingCredentials"),
    *("InvalidSpec", "NotAllowed", "NotOwned", "ApplyFailed", "AlteredOnAdmission", "HostConflict"),
    *("ClassNotFound", "DialectUnsupported", "VolumeMissing", "VolumePending", "DeviceClassMissing"),
    *("WaitingForGPU", "Unschedulable", "AdmissionRefused", "ProgressDeadlineExceeded"),
    *("WaitingForModel", "Downloading", "Fetched", "AuthRequired", "DoesNotFit"),
    "MonitoringUnsupported",
    *("WaitingForGateway", "RefusedByEdge", "ListenerNotHTTPS", "GatewayNotFound"),
    *("OtherPolicyWidens", "ExtraService", "ExtraRoute", "HostNetworkPod", "ForeignPod"),
}
# By the real kubelet, containerd, Traefik, Calico and worker: tests/operator/test_proof.py.
WALLS = {"Enforced", "NotEnforced", "ProbeFailed", "WaitingForEnforcement", "EdgeOpen", "JWKSUnreachable"}
# The same, in tests/demo.
NODE = {
    *("Loaded", "SecretMissing", "SecretMalformed", "ImagePullFailed", "CrashLoop", "OOMKilled"),
    *("ContainerConfigError", "ModelMissing", "ModelLoadFailed"),
    *("CertificateMissing", "CertificateMalformed", "CertificateExpired", "HostMismatch"),
}
# The same, by a real Job's pod and a hub that speaks its protocol badly: tests/demo/test_models.py.
HUB = {"RepoNotFound", "RevisionNotFound", "ChecksumMismatch", "NoSpace"}
# Caused for real, but in no status that these groups watch; or not at all, and why.
ELSEWHERE = {
    # One of today does not even start without the kind (tried: --runtime-config=resource.k8s.io/v1=false), and the
    # feature gate DynamicResourceAllocation is locked to true.
    "DeviceClaimsUnsupported": "only a Kubernetes before 1.34 says so: test_translate.py",
    **dict.fromkeys(sorted({*EXITS.values()} - {"AuthRequired"} - HUB), "a Job's exit code: test_fetch.py"),
    "DownloadFailed": "a Job that ends without a word: test_model_status.py, and test_fetch.py kills it",
    "Verifying": "asked of a Job that runs, which needs a node: test_model_status.py",
    "Issuing": "cert-manager's controller is not run here: test_status.py",
    "CertManagerMissing": "the CRD is there: test_status.py, test_translate.py",
    "ListenerNotFound": "test_dialects.py; the API server is asked the same for ListenerNotHTTPS",
    "EngineDied": "the worker ends in the same moment: its process is asked in tests/worker",
    "EngineStalled": "the same, and only a GPU hangs",
}
LISTED = CONTROL_PLANE | WALLS | NODE | HUB | ELSEWHERE.keys()

# Where a reason stands in what is called: true(kind, reason, message), Problem(reason, message), …
PLACES = {"Entrance": 1, "true": 1, "false": 1, "unknown": 1, "Judgement": 2, "Problem": 0, "ModelProblem": 0}


def said_by_code() -> set[str]:
    """Every reason that the operator builds a condition from, and what its workers report."""
    files = [*(ROOT / "operator/zimage_operator").rglob("*.py"), *(ROOT / "worker/zimage_worker").rglob("*.py")]
    found = {reason for path in files for reason in literals(path)}
    return found | set(ORDER) | set(EXITS.values()) | set(get_args(CertificateReason)) | set(get_args(CredentialReason))


def literals(path: Path) -> Iterator[str]:
    """The literal reasons of one module: in calls, and assigned to what is called `reason`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in PLACES and len(node.args) > PLACES[name]:
                yield from words(node.args[PLACES[name]])
        elif isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "reason" for target in node.targets):
            yield from words(node.value)


def words(node: ast.expr) -> Iterator[str]:
    """The strings that an expression is made of; what it is looked up by is none of them."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from words(node.body)
        yield from words(node.orelse)
