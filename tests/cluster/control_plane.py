"""A real control plane: etcd, kube-apiserver, controller-manager, scheduler, and a fake node.

    with ControlPlane() as control_plane:
        control_plane.kubectl("get", "nodes")

Everything listens on loopback, needs no root, and goes when the owner goes (keeper.py).
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from . import binaries, keeper
from .api import Api
from .keeper import RUNS, Facts
from .pki import Pki, write_kubeconfig
from .ports import free_ports
from .programs import PATIENCE_SECONDS, Programs

FILES = Path(__file__).parent / "files"
SERVICE_CIDR = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"
POD_CIDR = "10.244.0.0/16"


@dataclass(frozen=True)
class Settings:
    """What a bring-up needs to know. The defaults are the loopback control plane's."""

    # What namespaces without a label of their own enforce: privileged, baseline, restricted.
    pod_security: str = "privileged"
    address: str = "127.0.0.1"
    # 0: any free one.
    port: int = 0
    # GPUs of the fake node; None: no fake node.
    gpus: int | None = 1
    # The name of a real node that gets credentials.
    node: str = ""


# --- bringing it up (in the keeper, or in the init of a node) ---------------------------


def keep(directory: Path, options: Facts) -> Facts:
    programs = Programs(directory)
    facts = bring_up(programs, Settings(**options["settings"]), options["programs"])
    # How `restart_api_server` asks: the programs are this process's.
    signal.signal(signal.SIGHUP, lambda *_: programs.restart("kube-apiserver"))
    return facts


def bring_up(programs: Programs, settings: Settings, paths: Mapping[str, str]) -> Facts:
    """Start everything in order and wait until the API server can do all that it will ever do."""
    directory = programs.directory
    etcd_port, peer_port, api_port, manager_port, scheduler_port = free_ports(5)
    server = f"https://{settings.address}:{settings.port or api_port}"
    etcd = f"http://127.0.0.1:{etcd_port}"
    pki = make_pki(directory, settings)
    start_etcd(programs, paths["etcd"], etcd, f"http://127.0.0.1:{peer_port}")
    start_api_server(programs, paths["kube-apiserver"], settings, server, etcd)
    admin = pki.kubeconfig("admin", server)
    context = ssl.create_default_context(cafile=str(pki.ca_crt))
    context.load_cert_chain(directory / "admin.crt", directory / "admin.key")
    programs.wait_for_url("kube-apiserver", f"{server}/readyz", context)
    if settings.node:
        for name in ("kubelet", "kube-proxy", "coredns"):
            pki.kubeconfig(name, server)
    manager = pki.kubeconfig("kube-controller-manager", server)
    start_controller_manager(programs, paths["kube-controller-manager"], manager, manager_port)
    scheduler = pki.kubeconfig("kube-scheduler", server)
    start_scheduler(programs, paths["kube-scheduler"], scheduler, scheduler_port)
    if settings.gpus is not None:
        fake = pki.kubeconfig("fake-node", server)
        module = [sys.executable, "-m", f"{__package__}.fakenode"]
        programs.start("fakenode", *module, "--kubeconfig", fake, "--gpus", str(settings.gpus))
    # Pods are refused until the default ServiceAccount exists.
    account = f"{server}/api/v1/namespaces/default/serviceaccounts/default"
    programs.wait_for_url("kube-controller-manager", account, context)
    # /readyz does not cover the schema: kubectl and helm fail with 503 for some seconds without this.
    programs.wait_for_url("kube-apiserver", f"{server}/openapi/v2?timeout=2s", context)
    programs.wait_for_url("kube-apiserver", f"{server}/openapi/v3", context)
    if settings.gpus is not None:
        programs.wait_for_url("fakenode", f"{server}/api/v1/nodes/fake-0", context)
    return {"server": server, "etcd": etcd, "kubeconfig": str(admin), "kubectl": paths["kubectl"]}


def make_pki(directory: Path, settings: Settings) -> Pki:
    pki, node, address = Pki(directory), settings.node, settings.address
    pki.service_account_key()
    service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    long_name = "kubernetes.default.svc.cluster.local"
    addresses = sorted({"127.0.0.1", address, KUBERNETES_SERVICE})
    pki.server("kube-apiserver", ["localhost", *service, long_name, *addresses])
    pki.client("admin", "admin", "system:masters")
    pki.client("kubelet-client", "kube-apiserver-kubelet-client", "system:masters")
    # It deletes pods by force: more than a kubelet's own rights.
    pki.client("fake-node", "fake-node", "system:masters")
    for name in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
        pki.client(name, f"system:{name}")
    if node:
        pki.client("kubelet", f"system:node:{node}", "system:nodes")
        pki.server("kubelet-serving", [node, address, "127.0.0.1"])
        # Reads all Services, EndpointSlices and Namespaces, and nobody tests its rights.
        pki.client("coredns", "coredns", "system:masters")
    return pki


def start_etcd(programs: Programs, program: str, client: str, peer: str) -> None:
    programs.start(
        "etcd",
        program,
        f"--data-dir={programs.directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        # The data is thrown away with the folder.
        "--unsafe-no-fsync",
    )
    programs.wait_for_url("etcd", f"{client}/health")


def start_api_server(programs: Programs, program: str, settings: Settings, server: str, etcd: str) -> None:
    directory = programs.directory
    loopback = settings.address.startswith("127.")
    admission = (FILES / "admission.yaml").read_text().replace("@POD_SECURITY@", settings.pod_security)
    (directory / "admission.yaml").write_text(admission)
    programs.start(
        "kube-apiserver",
        program,
        f"--etcd-servers={etcd}",
        f"--bind-address={settings.address if loopback else '0.0.0.0'}",
        f"--advertise-address={settings.address}",
        f"--secure-port={server.rpartition(':')[2]}",
        # A loopback address is not allowed in an EndpointSlice.
        f"--endpoint-reconciler-type={'none' if loopback else 'lease'}",
        f"--tls-cert-file={directory / 'kube-apiserver.crt'}",
        f"--tls-private-key-file={directory / 'kube-apiserver.key'}",
        f"--client-ca-file={directory / 'ca.crt'}",
        f"--kubelet-client-certificate={directory / 'kubelet-client.crt'}",
        f"--kubelet-client-key={directory / 'kubelet-client.key'}",
        # As a kubelet's own serving certificate is signed by our CA, `kubectl exec` verifies it.
        f"--kubelet-certificate-authority={directory / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--admission-control-config-file={directory / 'admission.yaml'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={directory / 'sa.pub'}",
        f"--service-account-signing-key-file={directory / 'sa.key'}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--allow-privileged=true",
        "--profiling=false",
        f"--audit-policy-file={FILES / 'audit.yaml'}",
        # Blocking (the default) and unbuffered: what was answered is in the file.
        f"--audit-log-path={directory / 'audit.log'}",
    )


def start_controller_manager(programs: Programs, program: str, kubeconfig: Path, port: int) -> None:
    directory = programs.directory
    programs.start(
        "kube-controller-manager",
        program,
        *as_client(kubeconfig, port, directory / "kube-controller-manager-tls"),
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={directory / 'sa.key'}",
        f"--root-ca-file={directory / 'ca.crt'}",
        f"--cluster-signing-cert-file={directory / 'ca.crt'}",
        f"--cluster-signing-key-file={directory / 'ca.key'}",
        "--allocate-node-cidrs=true",
        f"--cluster-cidr={POD_CIDR}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--node-monitor-grace-period=60s",
        # With the default of 20 a second the first ServiceAccount appears after 5 s.
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        "--concurrent-serviceaccount-token-syncs=20",
        # Autoscalers look every 15 s otherwise.
        "--horizontal-pod-autoscaler-sync-period=1s",
    )


def start_scheduler(programs: Programs, program: str, kubeconfig: Path, port: int) -> None:
    tls = programs.directory / "kube-scheduler-tls"
    fast = ["--kube-api-qps=500", "--kube-api-burst=1000"]
    programs.start("kube-scheduler", program, *as_client(kubeconfig, port, tls), *fast)


def as_client(kubeconfig: Path, port: int, tls: Path) -> list[str]:
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={tls}",
    ]


# --- the owner's side -------------------------------------------------------------------


class Cluster:
    """What a control plane and a node have in common: a folder, a keeper, and kubectl."""

    kind = ""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory or RUNS / f"{self.kind}-{secrets.token_hex(4)}"
        self.facts: Facts = {}
        self.keeper: subprocess.Popen[str] | None = None

    def options(self) -> Facts:
        raise NotImplementedError

    def start(self, *, stay: bool = False) -> Self:
        """Bring it up. With `stay` it outlives this process and must be ended by `stop`."""
        keeper.sweep()
        self.facts, process = keeper.start(self.kind, self.directory, self.options(), stay=stay)
        self.keeper = None if stay else process
        return self

    def stop(self) -> None:
        if self.keeper:
            keeper.let_go(self.keeper)
        keeper.end(self.directory)

    def attach(self) -> Self:
        """Use the cluster that runs in the folder already."""
        self.facts = keeper.facts(self.directory)
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return Path(self.facts["kubeconfig"])

    def api(self) -> Api:
        """A client of the administrator's, for what kubectl is too slow for."""
        return Api(self.kubeconfig)

    @property
    def server(self) -> str:
        return str(self.facts["server"])

    @property
    def ca_crt(self) -> Path:
        """The certificate of the cluster's authority."""
        return self.kubeconfig.parent / "ca.crt"

    @property
    def environment(self) -> dict[str, str]:
        """What kubectl and other clients need; their caches go with the cluster."""
        cache = str(self.directory / "kubectl-cache")
        return {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": cache}

    def run(
        self, command: list[str | Path], *, check: bool = True, **keywords: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a client of the cluster; its output is captured, as text."""
        environment = {**os.environ, **self.environment, **keywords.pop("env", {})}
        answer: subprocess.CompletedProcess[str] = subprocess.run(
            command, check=False, text=True, env=environment, **{"capture_output": True, **keywords}
        )
        if check and answer.returncode:
            line = " ".join(map(str, command))
            raise CommandFailed(f"{line}: exit code {answer.returncode}\n{answer.stdout}{answer.stderr}")
        return answer

    def kubectl(self, *arguments: str | Path, input: str | None = None) -> str:
        """Run kubectl as administrator and give what it printed."""
        return self.run([self.facts["kubectl"], *arguments], input=input).stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get … -o json`, parsed."""
        return dict(json.loads(self.kubectl("get", *arguments, "-o", "json")))

    def apply(self, *documents: dict[str, Any]) -> str:
        """Server-side apply of objects, all in one call."""
        everything = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        return self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(everything))

    def kubeconfig_for(self, namespace: str, service_account: str) -> Path:
        """Write a kubeconfig with a fresh token of a ServiceAccount."""
        token = self.kubectl("-n", namespace, "create", "token", service_account, "--duration=24h").strip()
        path = self.directory / f"{namespace}.{service_account}.kubeconfig"
        write_kubeconfig(path, self.server, self.ca_crt, {"token": token})
        return path

    def audit(self) -> list[dict[str, Any]]:
        """Every request in the API server's audit log so far; files/audit.yaml says what is in it."""
        log = self.kubeconfig.parent / "audit.log"
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        # The last line may be half written.
        return [json.loads(line) for line in lines if line.endswith("\n")]


class CommandFailed(Exception):
    """A command that had to succeed did not; the text has its output."""


class ControlPlane(Cluster):
    """The loopback control plane with its fake node."""

    kind = "control-plane"

    def __init__(
        self, directory: Path | None = None, *, pod_security: str = "privileged", gpus: int | None = 1
    ) -> None:
        super().__init__(directory)
        self.settings = Settings(pod_security=pod_security, gpus=gpus)

    def options(self) -> Facts:
        paths = {name: str(path) for name, path in binaries.programs("control-plane").items()}
        return {"settings": asdict(self.settings), "programs": paths}

    def restart_api_server(self) -> None:
        """Kill the API server and wait until another one, started the same, is ready."""
        file = self.directory / "kube-apiserver.pid"
        before, keeper_pid = file.read_text(), keeper.alive(self.directory)
        assert keeper_pid, "the cluster has ended"
        os.kill(keeper_pid, signal.SIGHUP)
        end = time.monotonic() + PATIENCE_SECONDS
        while file.read_text() in (before, "") or not self.answers():
            if time.monotonic() > end:
                raise CommandFailed(f"no new API server after {PATIENCE_SECONDS} s")
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether the API server says that it is ready."""
        return self.run([self.facts["kubectl"], "get", "--raw", "/readyz"], check=False).returncode == 0

    @property
    def etcd(self) -> str:
        """The client URL of etcd, for tests that read what is really stored."""
        return str(self.facts["etcd"])
