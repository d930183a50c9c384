"""The real cert-manager beside the operator: an issuer is named, a certificate arrives and is renewed.

Its controllers are run by a main of our own (cluster/go/cert-manager): the released one is no Go module.
The worker is the real process, with the instant engine. What a kubelet would do is the test's: it puts the Secret's
certificate where the worker reads it.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cluster import binaries
from cluster.control_plane import ControlPlane
from cluster.programs import Programs
from laws import conditions, wait_for
from recorder import Recorder
from standalone.places import Place
from support import Operator, claim, eventually, in_force, mutation, smallest
from worker.conftest import SECRET_LINE, Worker
from worker.conftest import eventually as answered
from zimage_operator.names import HTTP_PORT, MANAGEMENT_PORT

pytestmark = pytest.mark.usefixtures("inside")
API = "cert-manager.io/v1"
OWN_NAMESPACE = "cert-manager"
ADDRESS, HOST = "10.77.0.9", "img.example.org"
INJECTED = Path(__file__).parents[1] / "worker" / "injected.py"
# Longer than the operator takes to answer anything that its streams show.
REST_SECONDS = 10


@pytest.fixture(scope="module")
def cert_manager(place: Place, beside: ControlPlane, programs: Programs) -> None:
    """Its controllers, and an authority of its own that has no name yet by which others could ask it."""
    program = binaries.programs("cert-manager")["cert-manager-controller"]
    with place.inside():
        beside.apply(namespace(OWN_NAMESPACE))
        options = (f"--kubeconfig={beside.kubeconfig}", f"--cluster-resource-namespace={OWN_NAMESPACE}")
        programs.start("cert-manager", program, *options)
        beside.apply(cluster_issuer("selfsigned", {"selfSigned": {}}), authority())
        ready = ("wait", "certificate/authority", "-n", OWN_NAMESPACE, "--for=condition=Ready", "--timeout=120s")
        beside.kubectl(*ready)


def namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def cluster_issuer(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API, "kind": "ClusterIssuer", "metadata": {"name": name}, "spec": spec}


def authority() -> dict[str, Any]:
    issuer = {"name": "selfsigned", "kind": "ClusterIssuer", "group": "cert-manager.io"}
    key = {"algorithm": "ECDSA", "size": 256}
    spec = {"isCA": True, "commonName": "test", "secretName": "authority", "privateKey": key, "issuerRef": issuer}
    head = {"name": "authority", "namespace": OWN_NAMESPACE}
    return {"apiVersion": API, "kind": "Certificate", "metadata": head, "spec": spec}


@pytest.fixture(scope="module")
def worker(place: Place, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """The process at the address that the services' pods get."""
    folder = tmp_path_factory.mktemp("worker")
    made = Worker(
        folder, tiny_model, ZIMAGE_HOST=ADDRESS, ZIMAGE_PORT=str(HTTP_PORT), ZIMAGE_MANAGEMENT_HOST=ADDRESS,
        ZIMAGE_MANAGEMENT_PORT=str(MANAGEMENT_PORT), ZIMAGE_ALLOWED_HOSTS=HOST,
        ZIMAGE_CERTIFICATE_FILE=str(folder / "tls.crt"),
    )  # fmt: skip
    made.command = [str(INJECTED), "fake"]
    made.htpasswd.write_text(SECRET_LINE)
    try:
        with place.inside():
            made.start()
            answered(made.is_ready, 280)
        yield made
    finally:
        made.end()


@pytest.fixture
def team(beside: ControlPlane, inside: Place, worker: Worker, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace whose pods have the worker's address."""
    name = f"t-{abs(hash(request.node.nodeid)) % 10**8}"
    beside.apply(namespace(name))
    claim(beside, name)
    note = f'[JSONPatch{{op: "add", path: "/metadata/annotations/fakenode~1address", value: "{ADDRESS}"}}]'
    beside.apply(*mutation(name, name, ("", "v1", "pods"), note))
    eventually(lambda: "default" in beside.kubectl("-n", name, "get", "serviceaccounts", "-o", "name"))
    in_force(beside, name, ADDRESS)
    yield name
    # The next one publishes under the same host.
    beside.kubectl("-n", name, "delete", "zis", "--all")
    beside.kubectl("delete", "namespace", name, "--wait=false")


def service(team: str, issuer: str) -> dict[str, Any]:
    tls = {"issuerRef": {"name": issuer, "kind": "ClusterIssuer"}}
    ingress = {"host": HOST, "className": "traefik", "tls": tls}
    return smallest(namespace=team, gpu={"count": 0}, ingress=ingress)


def issued(cluster: ControlPlane, team: str) -> bytes:
    """The certificate in the Secret as it is now, in PEM; empty where there is none."""
    found = cluster.kubectl("-n", team, "get", "secret", "studio-tls", "--ignore-not-found", "-o", "json")
    return base64.b64decode(json.loads(found)["data"]["tls.crt"]) if found else b""


def delivered(cluster: ControlPlane, team: str, worker: Worker) -> x509.Certificate:
    """Do what a kubelet does with the Secret."""
    chain = eventually(lambda: issued(cluster, team), "the Secret arrives")
    (worker.htpasswd.parent / "tls.crt").write_bytes(chain)
    return x509.load_pem_x509_certificates(chain)[0]


def told_end(cluster: ControlPlane, team: str) -> str:
    status = cluster.get("zis", "studio", "-n", team)["status"]
    return str((status.get("certificate") or {}).get("notAfter"))


def end(certificate: x509.Certificate) -> str:
    return certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")


def at_rest(operator: Operator) -> bool:
    """Whether the operator's last write is a while ago."""
    last = max(datetime.fromisoformat(one["stageTimestamp"]) for one in operator.writes())
    return datetime.now(UTC) - last > timedelta(seconds=REST_SECONDS)


def renew(cluster: ControlPlane, team: str) -> None:
    """What `cmctl renew` does: a condition of the Certificate asks for it."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    asked = {"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "by the test"}
    found = cluster.get("certificate", "studio-tls", "-n", team)["status"]["conditions"]
    others = [one for one in found if one["type"] != "Issuing"]
    patch = json.dumps({"status": {"conditions": [*others, {**asked, "lastTransitionTime": now}]}})
    ask = ("patch", "certificate", "studio-tls", "--subresource=status", "--type=merge", "-p", patch)
    cluster.kubectl("-n", team, *ask)


@pytest.mark.usefixtures("cert_manager")
def test_a_certificate_waits_for_its_issuer_arrives_and_is_renewed(
    operator: Operator, team: str, worker: Worker
) -> None:
    cluster, issuer = operator.cluster, f"{team}-ca"
    cluster.apply(service(team, issuer))
    wait_for(cluster, team, "Issuing", "CertificateReady")
    eventually(
        lambda: "does not exist" in conditions(cluster, team)["CertificateReady"]["message"],
        "cert-manager's own words are in the message",
    )
    told = conditions(cluster, team)
    assert f"whether ClusterIssuer {issuer} exists and is ready" in told["CertificateReady"]["message"]
    assert f"kubectl -n {team} describe certificate" in told["CertificateReady"]["message"]
    assert told["IngressReady"]["reason"] == "WaitingForWorker"
    assert "the certificate" in told["IngressReady"]["message"]
    assert not cluster.kubectl("-n", team, "get", "ingress", "-o", "name")

    cluster.apply(cluster_issuer(issuer, {"ca": {"secretName": "authority"}}))
    first = delivered(cluster, team, worker)
    names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST]
    wait_for(cluster, team, "Loaded", "CertificateReady")
    wait_for(cluster, team, "Published", "IngressReady")
    wait_for(cluster, team, "Ready")
    eventually(lambda: told_end(cluster, team) == end(first), "its end is told")

    # Another second of the clock, or both would end at the same time.
    time.sleep(2)
    before = issued(cluster, team)
    renew(cluster, team)
    eventually(lambda: issued(cluster, team) != before, "it is renewed")
    second = delivered(cluster, team, worker)
    assert end(second) != end(first)
    eventually(lambda: told_end(cluster, team) == end(second), "its new end is told")
    wait_for(cluster, team, "Ready")
    # All of that without a look into a Secret.
    asked = [one for one in operator.requests() if one.get("objectRef", {}).get("resource") == "secrets"]
    assert [one["requestURI"] for one in asked] == []


@pytest.mark.usefixtures("cert_manager")
def test_what_others_note_on_children_is_left_alone(operator: Operator, team: str, worker: Worker) -> None:
    """cert-manager writes into the Certificate; its tools and the likes of it put labels and annotations on others.

    Not on the Deployment: an annotation there begins a new generation, which the status tells of.
    """
    cluster = operator.cluster
    cluster.apply(cluster_issuer(f"{team}-ca", {"ca": {"secretName": "authority"}}), service(team, f"{team}-ca"))
    certificate = delivered(cluster, team, worker)
    eventually(lambda: told_end(cluster, team) == end(certificate), "its end is told")
    wait_for(cluster, team, "Ready")
    eventually(lambda: at_rest(operator), "there is nothing left to write", 120)
    children = ("certificate/studio-tls", "ingress/studio", "service/studio")
    before, seen = len(operator.writes()), Recorder(cluster, "/apis/zimage.dev/v1alpha1/zimageservices")
    for kind in children:
        cluster.kubectl("-n", team, "annotate", kind, "cert-manager.io/issue-temporary-certificate=true")
        cluster.kubectl("-n", team, "label", kind, "acme.cert-manager.io/http01-solver=true")
    time.sleep(REST_SECONDS)
    written = [one["objectRef"] for one in operator.writes()[before:]]
    assert written == [], [item["status"] for item in seen.versions(team)]
    for kind in children:
        noted = cluster.get(kind, "-n", team)["metadata"]
        assert noted["annotations"]["cert-manager.io/issue-temporary-certificate"] == "true", kind
        assert noted["labels"]["acme.cert-manager.io/http01-solver"] == "true", kind
