"""The GitOps tests share a control plane with the running operator, and a repository that began as the example."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cluster import binaries
from cluster.control_plane import ControlPlane
from support import ROOT, Operator, eventually, install

EXAMPLE = ROOT / "docs" / "gitops" / "example"
# Where the example's production service lives.
TEAM, STUDIO = "team-a", "teams/team-a/base/studio.yaml"
# What syncs it is called so in both tools.
PRODUCTION = "team-a-production"
# The versions of each kind of object, from nothing on.
Story = dict[str, list[dict[str, Any]]]
# What the CRD refuses, and what only the operator can know: 16 megapixels do not fit into this memory.
REFUSED = "  replicas: -1\n"
STALLED = "  gpu: {memory: 24Gi}\n  generation: {maxPixels: 16777216}\n"


@contextmanager
def town(folder: Path) -> Iterator[Operator]:
    """A control plane of its own with the operator beside it, and the admission policy in force."""
    with ControlPlane(gpus=4) as cluster:
        install(cluster, binaries.traefik_crds(), *binaries.gitops_crds())
        cluster.kubectl("apply", "--server-side", "-f", ROOT / "operator" / "admission-policy.yaml")
        operator = Operator(cluster, folder)
        operator.start_and_lead()
        yield operator
        operator.stop_in_order()
        log = operator.log.read_text()
        assert "Traceback" not in log, log[-4000:]


class Repository:
    """A Git repository on the disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(EXAMPLE, folder)
        self.git("init", "--quiet", "--initial-branch=main")
        self.first = self.commit("the example")

    def git(self, *arguments: str) -> str:
        # Whoever runs the tests has an identity, hooks and signing of their own.
        who = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(self.folder), "-c", "core.hooksPath=/dev/null", *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, message: str) -> str:
        """Commit all that there is; the commit's hash."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", f"--message={message}")
        return self.git("rev-parse", "HEAD")

    def reset(self) -> str:
        """A new commit that says what the first said."""
        self.git("rm", "-r", "--quiet", "--force", "--ignore-unmatch", ".")
        self.git("checkout", self.first, "--", ".")
        return self.commit("as in the beginning")

    def append(self, path: str, text: str) -> str:
        """A commit with more lines in a file."""
        file = self.folder / path
        file.write_text(file.read_text() + text)
        return self.commit(f"{path}: {text.strip()}")

    def remove(self) -> str:
        """A commit in which production has no service any more."""
        self.without_service()
        return self.commit("without the service")

    def move(self, place: str) -> str:
        """A commit in which the service is another folder's, as it was."""
        document = self.without_service()
        moved = {**document, "resources": ["../base"]}
        (self.folder / place).mkdir()
        (self.folder / place / "kustomization.yaml").write_text(yaml.safe_dump(moved))
        return self.commit(f"the service moves to {place}")

    def without_service(self) -> dict[str, Any]:
        """Take the service out of production's kustomization; give what that was."""
        file = self.folder / "teams/team-a/production/kustomization.yaml"
        document: dict[str, Any] = yaml.safe_load(file.read_text())
        rest = [path for path in document["resources"] if path != "../base"]
        # A patch without its target is an error of Kustomize.
        left = {name: value for name, value in document.items() if name != "patches"}
        file.write_text(yaml.safe_dump({**left, "resources": rest}))
        return document

    def documents(self, path: str) -> list[dict[str, Any]]:
        """What a file of the repository says."""
        return list(yaml.safe_load_all((self.folder / path).read_text()))


def service(cluster: ControlPlane) -> dict[str, Any]:
    """The production service as it is now."""
    return cluster.get("zis", "studio", "-n", TEAM)


def vault_answers(cluster: ControlPlane) -> None:
    """Say what the External Secrets Operator, which is not here, says once it has made the Secret."""
    ready = {"conditions": [{"type": "Ready", "status": "True", "reason": "SecretSynced", "message": "played"}]}
    patch = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": ready}))
    cluster.kubectl("-n", TEAM, "patch", "externalsecret", "studio-users", *patch)


def workers(cluster: ControlPlane) -> dict[str, str]:
    """The uid of its Deployment and of each of its pods, with what they run: equal means that nobody restarted."""
    found = (item["metadata"] for item in cluster.get("deployments,pods", "-n", TEAM)["items"])
    return {head["uid"]: str(head.get("generation")) for head in found if "deletionTimestamp" not in head}


def owned(cluster: ControlPlane) -> list[str]:
    """Everything in the team's namespace that the operator made."""
    kinds = "deployments,services,configmaps,serviceaccounts,networkpolicies,ingresses,middlewares,tlsoptions"
    names = cluster.kubectl(
        "get", kinds, "-n", TEAM, "-l", "app.kubernetes.io/managed-by=zimage-operator", "-o", "name"
    )
    return names.split()


def word(item: dict[str, Any]) -> str:
    """What its condition Ready says."""
    found = item.get("status", {}).get("conditions", [])
    return "".join(one["status"] for one in found if one["type"] == "Ready")


def serving(cluster: ControlPlane) -> bool:
    """Whether the service is Ready as it is now: the word about a former spec does not count."""
    item = service(cluster)
    return word(item) == "True" and item["status"]["observedGeneration"] == item["metadata"]["generation"]


def everything(cluster: ControlPlane) -> dict[str, str]:
    """The version of the service and of all that it has become."""
    found = cluster.get("zis/studio", *owned(cluster), "-n", TEAM)["items"]
    return {item["kind"] + item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in found}


def at_rest(cluster: ControlPlane) -> dict[str, str]:
    """The versions of everything once nobody writes any more: Deployments report a little longer than they roll."""

    def quiet() -> dict[str, str]:
        first = everything(cluster)
        time.sleep(2)
        return first if everything(cluster) == first else {}

    return eventually(quiet, "nothing is written")
