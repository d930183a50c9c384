"""The demo's last screen as tests: the real node, our images, Traefik, Calico, the real pipeline."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from cluster.node import Node
from demo import proof, scene
from reasons import NODE
from recorder import Recorder

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


def condition(stage: scene.Scene, kind: str, name: str = "studio") -> dict[str, str]:
    conditions = stage.service(name)["status"].get("conditions", [])
    return next((item for item in conditions if item["type"] == kind), {})


def reason(stage: scene.Scene, kind: str, name: str = "studio") -> str:
    return condition(stage, kind, name).get("reason", "")


def becomes(stage: scene.Scene, kind: str, wanted: str, name: str = "studio", seconds: float = 240) -> None:
    """Wait for a reason; what was there instead is in the error."""
    try:
        scene.wait(lambda: reason(stage, kind, name) == wanted, f"{name}: {kind} {wanted}", seconds)
    except AssertionError as error:
        found = stage.service(name)["status"].get("conditions", [])
        seen = [f"{item['type']} {item['reason']}: {item['message']}" for item in found]
        pods = stage.node.kubectl("-n", scene.NAMESPACE, "get", "pods", "-o", "wide")
        raise AssertionError("\n".join([str(error), *seen, pods])) from error


@pytest.mark.parametrize("line", proof.LINES)
def test_line(stage: scene.Scene, line: str, tmp_path: Path) -> None:
    assert proof.LINES[line](stage, tmp_path / "image.png")


def test_two_changes_in_a_row_on_one_gpu_end_in_one_worker_of_the_last(stage: scene.Scene) -> None:
    """A new worker that waited for the old one's GPU would wait for ever: Recreate, on the real kubelet."""
    before = stage.service()["status"]["templateRevision"]
    for steps in (40, 41):
        patch = json.dumps({"spec": {"generation": {"maxSteps": steps}}})
        stage.node.kubectl("-n", scene.NAMESPACE, "patch", "zis", "studio", "--type=merge", "-p", patch)
        scene.wait(lambda old=before: stage.revision() not in ("", old), "the new template is applied")
        before = stage.revision()
    scene.wait(lambda: one_worker_of(stage, before), "one worker of the last template serves")
    settings = stage.node.get("cm", "studio", "-n", scene.NAMESPACE)["data"]
    assert settings["ZIMAGE_MAX_STEPS"] == "41"


def one_worker_of(stage: scene.Scene, revision: str) -> bool:
    selector = stage.service()["status"]["selector"]
    pods = stage.node.get("pods", "-n", scene.NAMESPACE, "-l", selector)["items"]
    found = [pod["metadata"]["annotations"]["zimage.dev/template-revision"] for pod in pods]
    return found == [revision] and stage.ready().get("status") == "True"


def test_a_missing_secret_is_named_and_mended(stage: scene.Scene) -> None:
    """Rotation included: the kubelet brings the file, the worker reads it, the operator reports it."""
    secret = stage.node.get("secret", "studio-users", "-n", scene.NAMESPACE)
    stage.node.kubectl("-n", scene.NAMESPACE, "delete", "secret", "studio-users")
    scene.wait(lambda: reason(stage, "AuthConfigured") == "SecretMissing", "the missing Secret is named", 200)
    code, _ = stage.curl("-u", f"{scene.USER}:{stage.password}")
    assert code != 200
    stage.node.apply(scene.secret("studio-users", {"auth": b""}) | {"data": secret["data"]})
    scene.wait(lambda: reason(stage, "AuthConfigured") == "Loaded", "the Secret is back", 200)


def second(name: str, **spec: object) -> dict[str, object]:
    """A service beside the sample's, on the processor: the one GPU is taken."""
    body = scene.resource()
    kept = {key: value for key, value in body["spec"].items() if key != "ingress"}
    return {
        **body,
        "metadata": {"name": name, "namespace": scene.NAMESPACE},
        "spec": {**kept, "gpu": {"count": 0}, **spec},
    }


def amounts(memory: str) -> dict[str, object]:
    """Little of everything: what never serves needs nothing, and the node has two cores for all."""
    return {"requests": {"cpu": "10m", "memory": memory, "ephemeralStorage": "64Mi"}, "limits": {"memory": memory}}


# What is wrong with it, the reason that Ready gives, and what the message says to do.
TROUBLE: dict[str, tuple[dict[str, object], str, str]] = {
    "weak": ({"auth": {"basic": {"secretName": "weak-users"}}}, "SecretMalformed", "user bob: apr1 (MD5) is too weak"),
    "unpullable": ({"image": {"repository": "localhost/nowhere", "tag": "1"}}, "ImagePullFailed", "localhost/nowhere"),
    "homeless": ({"model": {"persistentVolumeClaim": {"claimName": "nowhere"}}}, "VolumeMissing", "create it"),
    "second": ({"gpu": {"count": 1}}, "WaitingForGPU", "no node has 1 free nvidia.com/gpu"),
    "empty": (
        {"model": {"persistentVolumeClaim": {"claimName": "z-image-turbo", "path": "none"}}},
        "ModelMissing",
        "fill the volume or mend its path",
    ),
    "broken": (
        {"model": {"persistentVolumeClaim": {"claimName": "z-image-turbo", "path": "broken"}}},
        "ModelLoadFailed",
        "the model at /model",
    ),
    # Python and its libraries alone are more than this.
    "starved": ({"resources": amounts("24Mi")}, "OOMKilled", "resources.limits.memory: raise it"),
    # Traefik does not know the command `serve`, and in the other image there is no such program.
    "crashing": ({"image": {"repository": "localhost/traefik", "tag": "test"}}, "CrashLoop", "--previous"),
    "headless": ({"image": {"repository": "localhost/probe", "tag": "test"}}, "ContainerConfigError", "serve"),
}
MENDED = ("weak", "unpullable", "empty")


# What is wrong with the certificate, and what the message says of it.
CERTIFICATES = {
    "missing": ("CertificateMissing", "the Secret or its key tls.crt is missing"),
    "junk": ("CertificateMalformed", "is no PEM certificate"),
    "expired": ("CertificateExpired", "has expired: renew it"),
    "other": ("HostMismatch", "is for else.example.org, not for other-certificate.example.org"),
}


def certified(name: str) -> dict[str, object]:
    """A service whose worker has nothing to load: it reports what it sees of the certificate at once."""
    empty = {"persistentVolumeClaim": {"claimName": "z-image-turbo", "path": "none"}}
    host = f"{name}-certificate.example.org"
    ingress = {"host": host, "className": "traefik", "tls": {"secretName": f"{name}-tls"}}
    return second(f"cert-{name}", model=empty, ingress=ingress, resources=amounts("512Mi"))


@pytest.fixture(scope="module")
def troubled(stage: scene.Scene) -> scene.Scene:
    """All of them at once; each recovers in its own test."""
    weak = b"bob:$apr1$7zXxWb3f$M3ZzJDZNl5MZW0Y3iTzRc0\n"
    stage.node.apply(scene.secret("weak-users", {"auth": weak}))
    broken = stage.node.directory / "model" / "broken"
    broken.mkdir(exist_ok=True)
    (broken / "model_index.json").write_text("{}")
    stage.node.apply(
        scene.certificate("expired-tls", "expired-certificate.example.org", days=-1),
        scene.certificate("other-tls", "else.example.org"),
        scene.secret("junk-tls", {"tls.crt": b"junk", "tls.key": b"junk"}),
        *(certified(name) for name in CERTIFICATES),
    )
    stage.node.apply(*(second(name, **spec) for name, (spec, _, _) in TROUBLE.items()))
    return stage


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_is_named_with_what_to_do(troubled: scene.Scene, name: str) -> None:
    _, wanted, advice = TROUBLE[name]
    becomes(troubled, "Ready", wanted, name)
    # Between two crashes a container runs for a moment, and the status says so.
    scene.wait(lambda: said(troubled, name) == ("False", wanted), f"{name}: Ready is False for {wanted}", 240)
    scene.wait(lambda: advice in condition(troubled, "Ready", name)["message"], f"{name}: {advice}", 240)
    if name not in MENDED:
        # `second` would take the one GPU in the moment in which a later test changes the sample.
        troubled.node.kubectl("-n", scene.NAMESPACE, "delete", "zis", name)


def said(stage: scene.Scene, name: str) -> tuple[str, str]:
    ready = condition(stage, "Ready", name)
    return ready["status"], ready["reason"]


@pytest.mark.parametrize("name", CERTIFICATES)
def test_a_certificate_that_will_not_do_is_named(troubled: scene.Scene, name: str) -> None:
    wanted, words = CERTIFICATES[name]
    service = f"cert-{name}"
    becomes(troubled, "CertificateReady", wanted, service)
    assert words in condition(troubled, "CertificateReady", service)["message"]
    # Nothing is published that clients would be warned of.
    assert reason(troubled, "IngressReady", service) == "WaitingForWorker"
    troubled.node.kubectl("-n", scene.NAMESPACE, "delete", "zis", service, "--wait=false")


def test_a_weak_password_file_serves_nobody_and_says_what_to_run(troubled: scene.Scene) -> None:
    assert "htpasswd -B -C 10" in condition(troubled, "AuthConfigured", "weak")["message"]
    assert troubled.node.get("deploy", "weak", "-n", scene.NAMESPACE)["status"].get("readyReplicas", 0) == 0


@pytest.mark.parametrize("name", MENDED)
def test_what_is_mended_recovers_by_itself(troubled: scene.Scene, name: str) -> None:
    if name == "weak":
        troubled.node.apply(scene.secret("weak-users", {"auth": scene.entry("bob", "a long enough one")}))
    else:
        troubled.node.apply(second(name))
    scene.wait(lambda: condition(troubled, "Ready", name).get("status") == "True", f"{name} is ready")


def sign_in_by(stage: scene.Scene, auth: dict[str, object]) -> None:
    """Change how callers of the sample's service sign in, and wait until its workers do it."""
    body = scene.resource()
    body["spec"]["auth"] = auth
    stage.node.apply(body)

    def reached() -> bool:
        found = stage.service()
        current = found["status"].get("observedGeneration") == found["metadata"]["generation"]
        return current and stage.ready().get("status") == "True"

    scene.wait(reached, f"ready with {sorted(auth)}")


def generated_password(stage: scene.Scene) -> str:
    """What the command of the event prints; empty while there is none."""
    query = ["secret", "studio-credentials", "-n", scene.NAMESPACE, "--ignore-not-found"]
    text = stage.node.kubectl("get", *query, "-o", "jsonpath={.data.password}")
    return base64.b64decode(text).decode()


def answers(ask: Callable[[], int], wanted: int, message: str) -> None:
    """Ask every two seconds: more would meet the edge's rate limit. It takes changes in with a delay of its own."""

    def asked() -> bool:
        time.sleep(2)
        return ask() == wanted

    scene.wait(asked, message, 240)


def test_a_generated_password_opens_the_door_and_a_deleted_one_no_longer(stage: scene.Scene) -> None:
    """On the real node: made by the operator's pod, brought by the kubelet, checked by Traefik and the worker."""
    sign_in_by(stage, {"basic": {"generate": True}})
    assert "1 user" in condition(stage, "AuthConfigured")["message"]
    old = generated_password(stage)
    answers(lambda: stage.curl("-u", f"zimage:{old}")[0], 200, "the generated one works")
    assert stage.curl()[0] == 401
    assert stage.curl("-u", f"{scene.USER}:{stage.password}")[0] == 401
    pods = {pod["metadata"]["uid"] for pod in stage.node.get("pods", "-n", scene.NAMESPACE)["items"]}
    stage.node.kubectl("-n", scene.NAMESPACE, "delete", "secret", "studio-credentials")
    scene.wait(lambda: generated_password(stage) not in ("", old), "another password", 120)
    answers(lambda: stage.curl("-u", f"zimage:{generated_password(stage)}")[0], 200, "the new one works")
    answers(lambda: stage.curl("-u", f"zimage:{old}")[0], 401, "the old one does not")
    assert pods <= {pod["metadata"]["uid"] for pod in stage.node.get("pods", "-n", scene.NAMESPACE)["items"]}
    scene.wait(lambda: reason(stage, "AuthConfigured") == "Loaded", "the new one is what the worker holds", 120)


def test_an_issuers_token_opens_the_door_at_the_edge_and_in_the_worker(stage: scene.Scene) -> None:
    """Traefik asks the worker, which reads the issuer's keys from a Secret."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    keys = {"keys": [{**public, "kid": "one", "alg": "ES256", "use": "sig"}]}
    stage.node.apply(scene.secret("studio-jwks", {"jwks.json": json.dumps(keys).encode()}))
    issuer = {"issuer": "https://login.example.org", "audiences": ["zimage"], "jwks": {"secretName": "studio-jwks"}}
    sign_in_by(stage, {"jwt": issuer})
    now = int(time.time())
    claims = {"iss": "https://login.example.org", "aud": "zimage", "sub": "carol", "iat": now, "exp": now + 600}

    def bearer(**changes: object) -> int:
        token = jwt.encode({**claims, **changes}, key, "ES256", headers={"kid": "one"})
        return stage.curl("-H", f"Authorization: Bearer {token}")[0]

    answers(bearer, 200, "Traefik asks the worker now")
    assert bearer(aud="another") == 401
    assert bearer(exp=now - 600) == 401
    assert stage.curl()[0] == 401
    assert stage.curl("-u", f"{scene.USER}:{stage.password}")[0] == 401
    assert "https://login.example.org" in condition(stage, "AuthConfigured")["message"]


def test_a_password_becomes_a_token_at_the_edge(stage: scene.Scene) -> None:
    """POST /token is reached without credentials in the header, everything else is not."""
    stage.node.apply(scene.secret("studio-signing", {"key": base64.b64encode(os.urandom(48))}))
    token = {"enabled": True, "signingKeySecretName": "studio-signing"}
    sign_in_by(stage, {"basic": {"secretName": "studio-users"}, "token": token})
    form = ["--data-urlencode", f"username={scene.USER}", "--data-urlencode", f"password={stage.password}"]
    where, url = Path(stage.node.directory) / "token.json", f"https://{scene.HOST}/token"
    ask = ["-d", "grant_type=password", *form, "-o", str(where)]
    answers(lambda: stage.curl(*ask, url=url)[0], 200, "a token is given")
    given = json.loads(where.read_text())["access_token"]
    where.unlink()
    answers(lambda: stage.curl("-H", f"Authorization: Bearer {given}")[0], 200, "the token opens the door")
    assert stage.curl("-u", f"{scene.USER}:{stage.password}")[0] == 200
    assert stage.curl("-d", "grant_type=password", *form[:3], "password=wrong", url=url)[0] == 400
    for path in ("/v1/models", "/token/", "/token/v1", "/auth/verify", "/"):
        assert stage.curl(url=f"https://{scene.HOST}{path}")[0] == 401, path
    sign_in_by(stage, {"basic": {"secretName": "studio-users"}})


# Asks the Service, each time by a new connection, until it is told to end; prints what came and how often.
ASKER = """
import collections, json, pathlib, time, urllib.request
seen, end = collections.Counter(), pathlib.Path("/tmp/end")
while not end.exists():
    try:
        seen[urllib.request.urlopen("http://studio.%s.svc:7860/v1/models", timeout=5).status] += 1
    except urllib.error.HTTPError as error:
        seen[error.code] += 1
    except OSError as error:
        seen[f"{type(error).__name__} {error}"] += 1
    time.sleep(0.02)
print(json.dumps(seen))
"""


def test_a_rolling_update_waits_for_a_gpu_and_leaves_no_gap(stage: scene.Scene) -> None:
    """Without a spare GPU the old worker serves on and the status says what is missing; with one the update rolls."""
    node, before, devices = stage.node, stage.revision(), dict[str, str]()
    slices = Recorder(node, f"/apis/discovery.k8s.io/v1/namespaces/{scene.NAMESPACE}/endpointslices")

    def one_worker() -> bool:
        devices.update(gpus(stage, devices))
        return one_worker_of(stage, stage.revision())

    try:
        change(stage, rollout={"strategy": "RollingUpdate"}, generation={"maxSteps": 42})
        becomes(stage, "WorkloadReady", "WaitingForGPU")
        assert serving(stage) == {before}
        node.set_gpus(2)
        scene.wait(one_worker, "it has rolled")
        assert sorted(devices.values()) == ["GPU-fake-0", "GPU-fake-1"]
        # Once more, now with a worker that ends as this strategy wants it.
        with asking(stage) as answers:
            change(stage, generation={"maxSteps": 43})
            scene.wait(one_worker, "it has rolled again")
        # Each by a worker that wants a password: none met a port that was closed already, nor one that drains.
        assert set(answers) == {"401"}, answers
        slices.catch_up()
        ready = [endpoints(item) for item in slices.versions() if item["metadata"]["name"].startswith("studio-")]
        assert max(ready) == 2, "both served for a while"
        assert min(ready) == 1, ready
    finally:
        # The strategy stays: the next test deletes the service.
        node.set_gpus(1)


def change(stage: scene.Scene, **spec: Any) -> None:
    """Change the sample's service and wait until its Deployment has another template."""
    before, patch = stage.revision(), json.dumps({"spec": spec})
    stage.node.kubectl("-n", scene.NAMESPACE, "patch", "zis", "studio", "--type=merge", "-p", patch)
    scene.wait(lambda: stage.revision() not in ("", before), "the new template is applied")


@contextmanager
def asking(stage: scene.Scene) -> Iterator[dict[str, int]]:
    """Ask from a pod in dmz while this lasts; what came is in the mapping afterwards."""
    answers: dict[str, int] = {}
    inside = ["kubectl", "-n", "dmz", "exec", "probe", "--"]
    command = stage.node.inside([*inside, "python3", "-c", ASKER % scene.NAMESPACE])
    with subprocess.Popen(
        command, env={**os.environ, **stage.node.environment}, stdout=subprocess.PIPE, text=True
    ) as asker:
        try:
            yield answers
        finally:
            stage.node.run([*inside, "touch", "/tmp/end"])
            answers.update(json.loads(asker.communicate(timeout=60)[0]))
    stage.node.run([*inside, "rm", "/tmp/end"])


def workers(stage: scene.Scene) -> list[dict[str, Any]]:
    """The sample's pods."""
    selector = stage.service()["status"]["selector"]
    return list(stage.node.get("pods", "-n", scene.NAMESPACE, "-l", selector)["items"])


def serving(stage: scene.Scene) -> set[str]:
    """The templates of its pods that are ready."""
    found = [(pod["metadata"]["annotations"], pod["status"].get("conditions", [])) for pod in workers(stage)]
    ready = {"type": "Ready", "status": "True"}
    return {
        noted["zimage.dev/template-revision"]
        for noted, conditions in found
        if any(ready.items() <= item.items() for item in conditions)
    }


def gpus(stage: scene.Scene, known: Collection[str]) -> dict[str, str]:
    """The GPU that each of its running pods sees, by the pod's name; without those that are known."""
    found = {}
    for pod in workers(stage):
        name, states = pod["metadata"]["name"], pod["status"].get("containerStatuses", [])
        if name not in known and any("running" in item["state"] for item in states):
            inside = ["kubectl", "-n", scene.NAMESPACE, "exec", name, "--", "printenv", "NVIDIA_VISIBLE_DEVICES"]
            # It may end in this moment.
            seen = stage.node.run(inside, check=False).stdout.strip()
            found |= {name: seen} if seen else {}
    return found


def endpoints(item: dict[str, Any]) -> int:
    return sum(bool(endpoint["conditions"].get("ready")) for endpoint in item.get("endpoints") or [])


def test_delete_leaves_nothing(stage: scene.Scene) -> None:
    assert proof.nothing_is_left(stage)


def test_each_reason_of_the_node_was_caused_here(stage: scene.Scene) -> None:
    """The last test of this file, of all that the ones before it have looked at."""
    missing = NODE - scene.SEEN
    assert not missing
