"""The stage of the demo and of the end-to-end tests: a node with Traefik, the operator, a model, a user.

Everything is real but the GPU and the weights, which are random and tiny.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bcrypt
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cluster import edge, images
from cluster.node import Node
from laws import assert_lawful
from support import eventually

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "team-a"
HOST = "img.example.org"
USER = "alice"
# In the node's folder, for whoever keeps the demo running.
PASSWORD_FILE = "demo-password"
# Generous: two cores, `import torch` alone takes 9 s of them.
PATIENCE_SECONDS = 300.0


def wait(what: Callable[[], Any], message: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait until `what` gives something true: with the node's patience."""
    return eventually(what, message, seconds)


def node() -> Node:
    """A node with every image that the demo needs, not started yet."""
    ours = [images.operator_image(), images.worker_image(), images.traefik_image(), images.probe_image()]
    return Node(ours)


# The reasons of every status that a test on the node has looked at.
SEEN: set[str] = set()


def looked_at(body: dict[str, Any]) -> dict[str, Any]:
    """Hold a status against the laws, and remember its reasons."""
    found = {item["type"]: item for item in body.get("status", {}).get("conditions", [])}
    if found:
        assert_lawful(body, found)
    SEEN.update(item["reason"] for item in found.values())
    return body


def connects(node: Node, namespace: str, address: str, seconds: int = 3) -> bool:
    """Whether the probe of a namespace (none: the node itself) opens a TCP connection to `address` (host/port)."""
    command = ["timeout", str(seconds), "bash", "-c", f"exec 3<>/dev/tcp/{address}"]
    where = ["kubectl", "-n", namespace, "exec", "probe", "--"] if namespace else []
    return node.run([*where, *command], check=False).returncode == 0


@dataclass
class Scene:
    """What the demo set up, and how to look at it."""

    node: Node
    password: str
    ca: Path

    def curl(self, *arguments: str, url: str = f"https://{HOST}/v1/models") -> tuple[int, str]:
        """Ask Traefik as a client on the node would; give the status and the rest of what was written out."""
        resolve = [part for port in (80, 443) for part in ("--resolve", f"{HOST}:{port}:{edge.ADDRESS}")]
        fixed = ["curl", "-sS", "-m", "120", "--cacert", str(self.ca), *resolve, "-w", "%{http_code} %{redirect_url}"]
        where = [] if "-o" in arguments else ["-o", "/dev/null"]
        answer = self.node.run([*fixed, *where, *arguments, url], check=False)
        code, _, rest = answer.stdout.strip().rpartition("\n")[2].partition(" ")
        return int(code or 0), rest or answer.stderr.strip()

    def image(self, target: Path, size: str = "256x256") -> tuple[int, str]:
        """Generate one image with the right password into `target`."""
        order = f'{{"prompt": "a red fox in the snow", "size": "{size}", "steps": 8, "seed": 7}}'
        headers = ["-H", "Content-Type: application/json", "-H", "Accept: image/png"]
        login = ["-u", f"{USER}:{self.password}"]
        return self.curl(*login, *headers, "-d", order, "-o", str(target), url=f"https://{HOST}/v1/images/generations")

    def from_pod(self, namespace: str, address: str, seconds: int = 3) -> bool:
        """Whether a pod of a namespace opens a TCP connection to `address` (host/port)."""
        return connects(self.node, namespace, address, seconds)

    def service(self, name: str = "studio") -> dict[str, Any]:
        """The resource as it is now."""
        return looked_at(self.node.get("zis", name, "-n", NAMESPACE))

    def revision(self) -> str:
        """The template that its Deployment carries now."""
        template = self.node.get("deploy", "studio", "-n", NAMESPACE)["spec"]["template"]["metadata"]
        return str(template["annotations"]["zimage.dev/template-revision"])

    def ready(self) -> dict[str, Any]:
        """Its Ready condition."""
        conditions = self.service()["status"].get("conditions", [])
        return next((item for item in conditions if item["type"] == "Ready"), {})


def prepare(node: Node) -> Scene:
    """Install everything but the resource itself."""
    edge.traefik_up(node)
    node.kubectl("apply", "--server-side", "-f", ROOT / "crds")
    node.apply(*operator_documents())
    node.apply(*(namespace(name) for name in (NAMESPACE, "elsewhere")))
    for name in ("dmz", "elsewhere", "zimage-system"):
        node.apply(probe(name))
    password = secrets.token_urlsafe(12)
    kept = node.directory / PASSWORD_FILE
    kept.touch(mode=0o600)
    kept.write_text(password)
    ca = certificates(node)
    node.apply(secret("studio-users", {"auth": entry(USER, password)}))
    model_volume(node)
    node.kubectl("-n", "zimage-system", "rollout", "status", "deployment/zimage-operator", "--timeout=120s")
    return Scene(node, password, ca)


def operator_documents() -> list[dict[str, Any]]:
    """operator/install.yaml as it is, with the images that were just built."""
    text = (ROOT / "operator" / "install.yaml").read_text()
    for name in ("zimage-operator", "zimage-worker"):
        text = text.replace(f"ghcr.io/zimage-dev/{name}:0.1.0", f"localhost/{name}:test")
    return list(yaml.safe_load_all(text))


def namespace(name: str) -> dict[str, Any]:
    """A namespace that admits restricted pods only."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def probe(place: str) -> dict[str, Any]:
    """A pod that does nothing: commands are run in it."""
    body = restricted("localhost/probe:test", ["sleep", "infinity"])
    metadata = {"name": "probe", "namespace": place}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {**body, "terminationGracePeriodSeconds": 0},
    }


def restricted(image: str, command: list[str], **more: Any) -> dict[str, Any]:
    """The spec of a pod with one container that PodSecurity `restricted` admits."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "args": command,
        "securityContext": security,
    }
    return {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{**container, **more.pop("container", {})}],
        **more,
    }


def secret(name: str, data: dict[str, bytes], kind: str = "Opaque") -> dict[str, Any]:
    """A Secret of the team's namespace."""
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": metadata, "data": encoded}


def entry(user: str, password: str) -> bytes:
    """One line of a htpasswd file, as `htpasswd -B -C 10` writes it."""
    return f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(10)).decode()}\n".encode()


def certificates(node: Node) -> Path:
    """Make a certificate authority and a certificate for the host; give the authority's file."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "demo authority")])
    ca = signed(issuer, issuer, ca_key, ca_key, x509.BasicConstraints(ca=True, path_length=0))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    leaf = signed(subject, issuer, key, ca_key, x509.SubjectAlternativeName([x509.DNSName(HOST)]))
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    node.apply(secret("img-tls", {"tls.crt": leaf.public_bytes(pem), "tls.key": private}, "kubernetes.io/tls"))
    path = node.directory / "demo-ca.crt"
    path.write_bytes(ca.public_bytes(pem))
    return path


def certificate(name: str, host: str, days: int = 30) -> dict[str, Any]:
    """A Secret with a certificate that nobody has signed, for the edge's of another service."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    leaf = signed(subject, subject, key, key, x509.SubjectAlternativeName([x509.DNSName(host)]), days)
    return secret(name, {"tls.crt": leaf.public_bytes(serialization.Encoding.PEM), "tls.key": b""})


def signed(
    subject: x509.Name, issuer: x509.Name, key: Any, ca_key: Any, extension: Any, days: int = 30
) -> x509.Certificate:
    """Make one certificate that holds for so many days more; it has held for two."""
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=2)).not_valid_after(now + timedelta(days=days))
    return builder.add_extension(extension, critical=False).sign(ca_key, hashes.SHA256())


def model_volume(node: Node) -> None:
    """A volume with the tiny random model, written by a Job of the worker's own image."""
    volume(node)
    mount = {"volumeMounts": [{"name": "model", "mountPath": "/model"}, {"name": "tmp", "mountPath": "/tmp"}]}
    volumes = [
        {"name": "model", "persistentVolumeClaim": {"claimName": "z-image-turbo"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    pod = restricted(
        "localhost/zimage-worker:test", ["tiny", "/model/tiny"], container=mount, volumes=volumes, restartPolicy="Never"
    )
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "tiny-model", "namespace": NAMESPACE}}
    node.apply({**job, "spec": {"backoffLimit": 0, "template": {"spec": pod}}})
    node.kubectl("-n", NAMESPACE, "wait", "--for=condition=Complete", "job/tiny-model", "--timeout=240s")


def volume(node: Node) -> None:
    """A volume on the node's own disk, and its claim, bound to each other by name."""
    folder = node.directory / "model"
    folder.mkdir(exist_ok=True)
    # The Job is not root and a hostPath has no fsGroup.
    folder.chmod(0o777)
    size = {"storage": "1Gi"}
    shared = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    made = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "model"}}
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "z-image-turbo", "namespace": NAMESPACE},
    }
    node.apply(
        {**made, "spec": {**shared, "capacity": size, "hostPath": {"path": str(folder)}}},
        {**claim, "spec": {**shared, "resources": {"requests": size}, "volumeName": "model"}},
    )


def resource() -> dict[str, Any]:
    """The resource of the demo: the committed sample."""
    return dict(yaml.safe_load((ROOT / "crds" / "samples" / "studio.yaml").read_text()))
