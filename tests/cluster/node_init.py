"""The first process of a node's namespaces: it makes the node, then only reaps.

It runs as pid 1 of its own pid namespace (see node.py); when it dies, the kernel kills
everything that it started, and mounts, interfaces and rules go with the namespaces.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import yaml

from . import control_plane, store
from .api import Api, ApiError
from .control_plane import FILES, Settings
from .keeper import ClusterFailed, Facts, described, say
from .pki import write_kubeconfig
from .programs import Programs

NODE = "node-1"
ADDRESS = "172.30.0.2"
PORT = 6443
# The fixed address of the edge's Service (traefik/); DNS leads *.example.org here.
EDGE = "10.96.0.80"
CNI_PLUGINS = Path("/usr/lib/cni")
RUN = Path("/run/containerd")
# In the node's folder: how many GPUs the fake plugin advertises now. Node.set_gpus writes it.
GPUS = "gpus"

CLONE_NEWCGROUP = 0x02000000
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
# What the kubelet insists on. Some are the whole machine's, so it is shown files instead.
SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
# These belong to the network namespace.
NETWORK_SYSCTLS = {
    "net/ipv4/ip_forward": 1,
    "net/bridge/bridge-nf-call-iptables": 1,
    "net/ipv4/conf/all/rp_filter": 0,
}


def main(directory: Path, options: Facts) -> int:
    """Make the node, tell the keeper, and reap until the end."""
    if os.getpid() != 1:
        raise ClusterFailed("only the first process of a pid namespace may call this: it mounts over /run")
    try:
        enter_groups(directory)
        mount_everything(directory)
        make_network()
        answer = bring_up(directory, options)
    except Exception as error:  # the keeper's owner shall read why, whatever it was
        say({"error": described(error)})
        return 1
    say(answer)
    # The keeper reads one line; nothing is said after it.
    os.close(1)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(1)


def sh(*command: str | Path) -> None:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ClusterFailed(f"{' '.join(map(str, command))}: {answer.stderr.strip()}")


# --- the namespaces -----------------------------------------------------------------------


def enter_groups(directory: Path) -> None:
    """Move into this node's control groups and make them the roots that anybody here sees."""
    for group in (directory / "cgroups").read_text().splitlines():
        Path(group, "cgroup.procs").write_text("0")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWCGROUP):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWCGROUP)")


def mount_everything(directory: Path) -> None:
    sh("hostname", NODE)
    # Afresh: sysfs shows this network namespace, cgroup this node's groups as roots.
    sh("mount", "-t", "sysfs", "sysfs", "/sys")
    sh("mount", "-t", "tmpfs", "-o", "mode=755", "cgroup", "/sys/fs/cgroup")
    for options in (*CONTROLLERS, "none,name=systemd"):
        folder = f"/sys/fs/cgroup/{options.rpartition('=')[2]}"
        Path(folder).mkdir()
        sh("mount", "-t", "cgroup", "-o", options, "cgroup", folder)
    sh("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for folder in ("netns", "lock", "containerd"):
        Path("/run", folder).mkdir()
    lay_over(directory, "/var/lib")
    lay_over(directory, "/var/log")
    for source, target in (("kubelet", "/var/lib/kubelet"), ("pods", "/var/log/pods")):
        bind(directory / source, Path(target))
    for name, value in SYSCTLS.items():
        file = directory / "sysctl" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
        sh("mount", "--bind", file, f"/proc/sys/{name}")
    show_resolver(directory)
    # Pods' mounts must reach the kubelet and back, and end here (the root is private outside).
    sh("mount", "--make-rshared", "/")


def lay_over(directory: Path, folder: str) -> None:
    """Make a system folder writable for us alone: the machine's own gets no new subfolder.

    The upper layer is memory. Only mount points and small state go there; what is large
    is bound to `directory` afterwards.
    """
    if directory.is_relative_to(folder):
        raise ClusterFailed(f"a node's folder cannot lie below {folder}: set CLUSTER_DIR or ZIMAGE_CACHE")
    scratch = directory / "scratch" / folder.strip("/").replace("/", "-")
    scratch.mkdir(parents=True)
    sh("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", scratch)
    for name in ("upper", "work"):
        (scratch / name).mkdir()
    layers = f"lowerdir={folder},upperdir={scratch}/upper,workdir={scratch}/work"
    sh("mount", "-t", "overlay", "-o", layers, "overlay", folder)


def bind(source: Path, target: Path) -> None:
    source.mkdir(exist_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    sh("mount", "--bind", source, target)


def show_resolver(directory: Path) -> None:
    """Pods and whatever runs inside ask the cluster's DNS; the machine's is out of reach anyway."""
    file = directory / "resolv.conf"
    file.write_text("nameserver 10.96.0.10\n")
    # Often a link into /run, which is empty here.
    shown = Path("/etc/resolv.conf").resolve()
    shown.parent.mkdir(parents=True, exist_ok=True)
    shown.touch()
    sh("mount", "--bind", file, shown)


def make_network() -> None:
    """A bridge bears the node's address (this kernel has no dummy device); nothing is behind it."""
    commands = f"""
        link set lo up
        link add node0 type bridge
        address add {ADDRESS}/24 dev node0
        link set node0 up
        link add up0 type veth peer name up1
        link set up1 master node0
        link set up0 up
        link set up1 up
        route add default via 172.30.0.1 dev node0
    """
    # up0 and up1 give the bridge a carrier. The default route leads to nobody; without one
    # some programs refuse to find out their own address.
    subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True)
    for name, value in NETWORK_SYSCTLS.items():
        Path("/proc/sys", name).write_text(str(value))


# --- the programs -------------------------------------------------------------------------


def bring_up(directory: Path, options: Facts) -> Facts:
    """Start everything; what needs no answer of the other starts at once."""
    programs, paths = Programs(directory), options["programs"]
    start_containerd(programs, options)
    settings = replace(Settings(), address=ADDRESS, port=PORT, gpus=None, node=NODE)
    settings = replace(settings, pod_security=options["pod_security"])
    facts = control_plane.bring_up(programs, settings, paths)
    kubectl = Kubectl(Path(paths["kubectl"]), Path(facts["kubeconfig"]))
    start_kubelet(programs, paths["kubelet"])
    if options["gpus"]:
        counted = directory / GPUS
        counted.write_text(str(options["gpus"]))
        programs.start("gpu-plugin", sys.executable, "-m", f"{__package__}.gpu_plugin", counted)
    kubectl.apply(FILES / "dns.yaml")
    write(directory, "kube-proxy.yaml")
    configuration = f"--config={directory / 'kube-proxy.yaml'}"
    programs.start("kube-proxy", paths["kube-proxy"], configuration, f"--hostname-override={NODE}")
    programs.start("coredns", paths["coredns"], "-conf", write(directory, "Corefile"))
    if options["policy"] == "calico":
        start_calico(programs, paths, kubectl, Api(Path(facts["kubeconfig"])))
    store.tag_for_pods(RUN / "containerd.sock", options["images"])
    programs.wait_for_url("coredns", "http://127.0.0.1:8181/ready")
    wait_for_node(programs, Api(Path(facts["kubeconfig"])), options["gpus"])
    return {**facts, "policy": options["policy"]}


class Kubectl:
    """The administrator's kubectl, for manifests."""

    def __init__(self, program: Path, kubeconfig: Path) -> None:
        self.command = [
            str(program),
            f"--kubeconfig={kubeconfig}",
            f"--cache-dir={kubeconfig.parent}/kubectl-cache",
        ]

    def __call__(self, *arguments: str | Path) -> None:
        sh(*self.command, *arguments)

    def apply(self, *files: Path) -> None:
        self("apply", "--server-side", *(f"--filename={file}" for file in files))


def write(directory: Path, name: str) -> Path:
    """Put a file of `files/` into the node's folder, with its paths and names filled in."""
    text = (FILES / name).read_text()
    values = {"DIRECTORY": str(directory), "NODE": NODE, "ADDRESS": ADDRESS, "EDGE": EDGE}
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    (directory / name).write_text(text)
    return directory / name


def start_containerd(programs: Programs, options: Facts) -> None:
    directory = programs.directory
    store.clone(directory / "containerd")
    plugins = directory / "cni-bin"
    plugins.mkdir()
    for plugin in (*CNI_PLUGINS.iterdir(), Path(options["programs"]["calico"])):
        (plugins / plugin.name).symlink_to(plugin)
    # Exactly one: a second file would be a second network.
    (directory / "cni-conf").mkdir()
    conflist = write(directory, f"10-{options['policy']}.conflist")
    conflist.rename(directory / "cni-conf" / conflist.name)
    text = store.configuration(
        directory / "containerd", RUN, cni_bin=str(plugins), cni_conf=str(directory / "cni-conf")
    )
    (directory / "containerd.toml").write_text(text)
    programs.start("containerd", "containerd", "-c", directory / "containerd.toml")


def start_kubelet(programs: Programs, program: str) -> None:
    directory = programs.directory
    programs.start(
        "kubelet",
        program,
        f"--config={write(directory, 'kubelet.yaml')}",
        f"--kubeconfig={directory / 'kubelet.kubeconfig'}",
        f"--hostname-override={NODE}",
        f"--node-ip={ADDRESS}",
    )


def start_calico(programs: Programs, paths: dict[str, str], kubectl: Kubectl, api: Api) -> None:
    """Calico's CRDs and ClusterRoles are its module's own files; Felix enforces, the plugin connects."""
    directory, source = programs.directory, Path(paths["calico-src"])
    documents = yaml.safe_load_all((source / "manifests" / "calico.yaml").read_text())
    wanted = ("calico-node", "calico-cni-plugin")
    roles = [
        document
        for document in documents
        if document and document["kind"] == "ClusterRole" and document["metadata"]["name"] in wanted
    ]
    (directory / "calico-roles.yaml").write_text(yaml.safe_dump_all(roles))
    crds = source / "libcalico-go" / "config" / "crd"
    kubectl.apply(crds, directory / "calico-roles.yaml", FILES / "calico.yaml")
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    kubectl.apply(FILES / "calico-ready.yaml")
    for account in wanted:
        give_token(directory, api, account)
    lines = (FILES / "felix.env").read_text().splitlines()
    environment = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    environment |= {"PATH": os.environ["PATH"], "HOME": "/root", "FELIX_FELIXHOSTNAME": NODE}
    environment["KUBECONFIG"] = str(directory / "calico-node.kubeconfig")
    programs.start("felix", paths["calico-felix"], "-c", "/dev/null", env=environment)
    programs.wait_for_url("felix", "http://127.0.0.1:9099/readiness")


def give_token(directory: Path, api: Api, account: str) -> None:
    path = f"/api/v1/namespaces/kube-system/serviceaccounts/{account}/token"
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 30 * 24 * 3600},
    }
    token = api.request("POST", path, request)["status"]["token"]
    kubeconfig = directory / f"{account}.kubeconfig"
    # Renamed into place: the plugin may be called at any time.
    draft = kubeconfig.with_suffix(".new")
    write_kubeconfig(draft, f"https://{ADDRESS}:{PORT}", directory / "ca.crt", {"token": token})
    draft.rename(kubeconfig)


def wait_for_node(programs: Programs, api: Api, gpus: int) -> None:
    """Ready, with its GPUs, and with the images' names known."""

    def ready() -> bool:
        try:
            status = api.request("GET", f"/api/v1/nodes/{NODE}")["status"]
        except ApiError:
            return False
        conditions = {item["type"]: item["status"] for item in status.get("conditions", [])}
        return conditions.get("Ready") == "True" and int(status.get("allocatable", {}).get("nvidia.com/gpu", 0)) == gpus

    programs.wait_for("kubelet", "ready node with its GPUs", ready)
