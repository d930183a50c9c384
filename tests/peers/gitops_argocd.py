"""The real Argo CD: its application controller, its repository server, and a redis. No API server, no page."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from cluster import binaries, packages
from cluster.control_plane import ControlPlane
from cluster.ports import free_ports
from cluster.programs import Programs
from support import ROOT, eventually

from .gitops import Repository

SYSTEM = "argocd"
HEALTH = "resource.customizations.health.zimage.dev_ZImageService"
IN_CLUSTER, FLEET = "https://kubernetes.default.svc", "https://git.example.org/platform/fleet.git"
# Read at the start, empty or not.
CONFIG_MAPS = ("rbac-cm", "tls-certs-cm", "ssh-known-hosts-cm", "gpg-keys-cm", "cmd-params-cm")
PART = {"app.kubernetes.io/part-of": "argocd"}


class ArgoCD:
    """The three processes, and what a test asks of them."""

    def __init__(self, cluster: ControlPlane, folder: Path) -> None:
        self.cluster, self.folder, self.programs = cluster, folder, Programs(folder)
        self.found = binaries.programs("argocd")

    def start(self) -> None:
        packages.ensure(("redis-tools",))
        for kind in ("application", "appproject", "applicationset"):
            crd = self.found["argocd-src"] / f"manifests/crds/{kind}-crd.yaml"
            self.cluster.kubectl("apply", "--server-side", "-f", crd)
        self.cluster.apply(*self.settings())
        redis, repository, metrics, more = free_ports(4)
        # Debian's redis-server is this program under another name, in a package that would start it.
        name = self.folder / "redis-server"
        name.symlink_to(str(shutil.which("redis-check-rdb")))
        self.programs.start("redis", name, "--port", str(redis), "--bind", "127.0.0.1", "--save", "")
        environment = self.environment()
        local = ["--redis", f"127.0.0.1:{redis}"]
        self.programs.start(
            "repo-server",
            self.found["argocd"],
            *("--address", "127.0.0.1", "--port", str(repository), "--disable-tls", "--client-ca-path", ""),
            *("--metrics-address", "127.0.0.1", "--metrics-port", str(more), *local),
            env={**environment, "ARGOCD_BINARY_NAME": "argocd-repo-server"},
        )
        self.programs.wait_for_url("repo-server", f"http://127.0.0.1:{more}/metrics")
        self.programs.start(
            "controller",
            self.found["argocd"],
            *("--kubeconfig", str(self.cluster.kubeconfig), "--namespace", SYSTEM, *local),
            *("--repo-server", f"127.0.0.1:{repository}", "--repo-server-plaintext"),
            *("--metrics-port", str(metrics)),
            env={**environment, "ARGOCD_BINARY_NAME": "argocd-application-controller"},
        )
        self.programs.wait_for_url("controller", f"http://127.0.0.1:{metrics}/healthz")

    def stop(self) -> None:
        for process in reversed(self.programs.running.values()):
            process.terminate()
            process.wait(60)

    def environment(self) -> dict[str, str]:
        """What its image sets, with folders of ours."""
        path = self.folder / "bin"
        path.mkdir()
        for name in ("git-verify-wrapper.sh", "gpg-wrapper.sh"):
            shutil.copy(self.found["argocd-src"] / "hack" / name, path)
        # kubectl has the same Kustomize inside.
        kustomize = path / "kustomize"
        kustomize.write_text(
            f'#!/bin/sh\n[ "$1" = build ] && shift\nexec {self.cluster.facts["kubectl"]} kustomize "$@"\n'
        )
        for program in path.iterdir():
            program.chmod(0o755)
        places = {"TLS_DATA_PATH": "tls", "SSH_DATA_PATH": "ssh", "PLUGINSOCKFILEPATH": "plugins"}
        for place in (*places.values(), "home"):
            (self.folder / place).mkdir()
        return {
            **os.environ,
            **{f"ARGOCD_{name}": str(self.folder / place) for name, place in places.items()},
            "ARGOCD_GPG_ENABLED": "false",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder),
            "PATH": f"{path}:{os.environ['PATH']}",
        }

    def settings(self) -> list[dict[str, Any]]:
        """A namespace with what an installation of Argo CD has in it; the cluster is ours, by its own address."""
        document = json.loads(self.cluster.kubeconfig.read_text())
        place, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        tls = {
            "caData": place["certificate-authority-data"],
            "certData": user["client-certificate-data"],
            "keyData": user["client-key-data"],
        }
        where = {"name": "here", "server": place["server"], "config": json.dumps({"tlsClientConfig": tls})}
        secret = {"server.secretkey": "test-only"}
        # Its installation makes this account, and may do anything by it.
        account = "argocd-application-controller"
        who = {"kind": "ServiceAccount", "name": account, "namespace": SYSTEM}
        admin = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
        binding = {"roleRef": admin, "subjects": [who]}
        return [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}},
            config_map("argocd-cm", self.config()),
            *(config_map(f"argocd-{name}", {}) for name in CONFIG_MAPS),
            {**head("Secret", "argocd-secret", PART), "stringData": secret},
            {**head("Secret", "here", {"argocd.argoproj.io/secret-type": "cluster"}), "stringData": where},
            head("ServiceAccount", account, PART),
            {**head("ClusterRoleBinding", account, PART, "rbac.authorization.k8s.io/v1"), **binding},
        ]

    def config(self) -> dict[str, str]:
        """What docs/gitops/README.md says to put into argocd-cm."""
        script = (ROOT / "docs/gitops/health.lua").read_text()
        return {HEALTH: script, "application.sync.impersonation.enabled": "true"}

    def create(self, repository: Repository, path: str, **changes: str) -> None:
        """Apply a file of the example with the addresses of this machine; words are changed as told."""
        text = (repository.folder / path).read_text()
        real = {IN_CLUSTER: self.cluster.server, FLEET: f"file://{repository.folder}", **changes}
        for old, new in real.items():
            assert old in text, f"{path} does not say {old}"
            text = text.replace(old, new)
        self.cluster.apply(*yaml.safe_load_all(text))

    def application(self, name: str) -> dict[str, Any]:
        return self.cluster.get("application", name, "-n", SYSTEM)

    def refresh(self, name: str, how: str = "normal") -> None:
        """Look at Git and at the cluster again, to the end: the controller takes the annotation off first."""
        self.cluster.kubectl(
            "-n", SYSTEM, "annotate", "--overwrite", "application", name, f"argocd.argoproj.io/refresh={how}"
        )
        asked = "argocd.argoproj.io/refresh"
        eventually(
            lambda: asked not in self.application(name)["metadata"].get("annotations", {}), f"{name} is looked at"
        )

    def wait_for(self, name: str, revision: str, sync: str, health: str) -> dict[str, Any]:
        """Wait until it says so of a revision, and no sync is under way; its status."""
        self.refresh(name)

        def said() -> dict[str, Any] | None:
            status = self.application(name).get("status", {})
            seen = (status["sync"].get("revision"), status["sync"]["status"], status["health"]["status"])
            busy = status.get("operationState", {}).get("phase") == "Running"
            return None if busy or seen != (revision, sync, health) else status

        return self.patiently(name, f"{sync} {health}", said)

    def wait_for_refusal(self, name: str, revision: str) -> str:
        """Wait until a revision is refused: by the comparison, which asks the API server, or by the sync."""
        self.refresh(name)

        def said() -> str | None:
            status = self.application(name).get("status", {})
            compared = [one for one in status.get("conditions", []) if one["type"] == "ComparisonError"]
            result = status.get("operationState", {}).get("syncResult", {})
            tried = [one for one in result.get("resources", []) if one.get("status") == "SyncFailed"]
            if compared and status["sync"].get("revision") == revision:
                return str(compared[0]["message"])
            return str(tried[0]["message"]) if tried and result.get("revision") == revision else None

        return str(self.patiently(name, "refused", said))

    def patiently(self, name: str, what: str, said: Any) -> Any:
        try:
            return eventually(said, f"{name} {what}", 120)
        except AssertionError as error:
            status = json.dumps(self.application(name).get("status", {}), indent=1)
            raise AssertionError(f"{error}\n{status[:6000]}\n{self.programs.last_words('controller', 8)}") from error

    def judge(self, item: dict[str, Any]) -> str:
        """What `argocd admin settings resource-overrides health` calls an object."""
        config, resource = self.folder / "argocd-cm.yaml", self.folder / "object.yaml"
        config.write_text(json.dumps(config_map("argocd-cm", self.config())))
        resource.write_text(json.dumps(item))
        command = [self.found["argocd"], "admin", "settings", "resource-overrides", "health", resource]
        answer = self.cluster.run(
            [*command, "--argocd-cm-path", config], env={"ARGOCD_BINARY_NAME": "argocd", "HOME": str(self.folder)}
        )
        return dict(line.split(": ", 1) for line in answer.stdout.splitlines() if ": " in line)["STATUS"].strip()


def head(kind: str, name: str, labels: dict[str, str], version: str = "v1") -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": SYSTEM, "labels": labels}}


def config_map(name: str, data: dict[str, str]) -> dict[str, Any]:
    return {**head("ConfigMap", name, PART), "data": data}
