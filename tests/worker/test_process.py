"""The real process: real sockets, the real pipeline with the tiny model."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bcrypt
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from PIL import Image

from zimage_operator.observed import read_posture

# Some 8 ms a step: long enough to be met while it runs, ended by the client.
LONG = {"steps": 1000, "size": "256x256"}
PHASES = ["model: load", "model: warm-up", "model: ready"]


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def picture(answer) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))


def certificate(*names: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(datetime.now(UTC) - timedelta(days=1))
    made = made.not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Departing:
    """A raw connection that asks for a long picture and can leave."""

    def __init__(self, port: int, user: str, password: str) -> None:
        body = b'{"prompt":"canary-prompt-long","steps":1000,"size":"256x256"}'
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {basic(user, password)}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)

    def leave(self) -> None:
        self.socket.close()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_picture_in_each_format(worker, kind: str) -> None:
    answer = worker.generate({"output_format": kind, "size": "96x64", "seed": 7})
    image = picture(answer)
    assert (image.format, image.size) == (kind.upper(), (96, 64))
    assert answer.json()["data"][0]["seed"] == 7


def test_the_bare_image_says_how_it_was_made_but_not_from_what(worker) -> None:
    answer = worker.generate({"prompt": "canary-prompt-bare"}, headers={"Accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    text = Image.open(io.BytesIO(answer.content)).text  # type: ignore[attr-defined]
    assert text["seed"] == answer.headers["x-seed"]
    assert (text["steps"], text["size"], text["model_revision"]) == ("1", "64x64", "revision-1")
    assert re.fullmatch(r"zimage-worker \S+, diffusers \S+, torch \S+", text["software"])
    assert b"canary" not in answer.content


def test_the_same_seed_gives_the_same_bytes_and_n_counts_on(worker) -> None:
    both = worker.generate({"seed": 5, "n": 2}).json()["data"]
    second = worker.generate({"seed": 6}).json()["data"]
    assert [each["seed"] for each in both] == [5, 6]
    assert both[1]["b64_json"] == second[0]["b64_json"]
    assert both[0]["b64_json"] != both[1]["b64_json"]
    # None given: the server draws one, and tells which.
    (drawn,), (other,) = (worker.generate().json()["data"] for _ in range(2))
    assert drawn["seed"] != other["seed"]
    assert worker.generate({"seed": drawn["seed"]}).json()["data"] == [drawn]


def test_guidance_and_a_negative_prompt_change_the_picture(worker) -> None:
    plain, guided = ({"seed": 5, "steps": 2}, {"seed": 5, "steps": 2, "guidance_scale": 4.0, "negative_prompt": "x"})
    assert worker.generate(plain).json()["data"] != worker.generate(guided).json()["data"]


def test_openai_s_own_client(worker) -> None:
    client = openai.OpenAI(
        base_url=f"http://127.0.0.1:{worker.port}/v1", api_key="x", max_retries=0,
        default_headers={"Authorization": basic("alice", "canary-password-7f3a")},
    )  # fmt: skip
    assert [model.id for model in client.models.list().data] == ["z-image"]
    made = client.images.generate(prompt="a fox", model="z-image", size="64x64", n=1, extra_body={"steps": 1})  # type: ignore[call-overload]
    assert base64.b64decode(made.data[0].b64_json).startswith(b"\x89PNG")
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a fox", size="17x17")  # type: ignore[call-overload]
    assert caught.value.param == "size"


@pytest.mark.parametrize(
    ("options", "status", "param"),
    [
        ({"json": {"prompt": "x" * 60_000}}, 400, "prompt"),
        ({"json": {"prompt": "x" * 100_000}}, 413, None),
        ({"content": b"x" * 10_000_000}, 413, None),
        ({"content": iter([b"x" * 1000] * 1000)}, 413, None),
        ({"json": {"prompt": "ü" * 1100}}, 400, "prompt"),
        ({"json": {"prompt": "x", "size": "17x17"}}, 400, "size"),
        ({"json": {"prompt": "x", "steps": 0}}, 400, "steps"),
        ({"json": []}, 400, None),
        ({"content": b'{"prompt": "x"', "headers": {"Content-Type": "application/json"}}, 400, None),
        ({"content": b'{"prompt": "\xff"}', "headers": {"Content-Type": "application/json"}}, 400, None),
        ({"content": b"[" * 60_000, "headers": {"Content-Type": "application/json"}}, 400, None),
        ({"content": b'{"prompt": "x"}', "headers": {"Content-Type": "text/plain"}}, 415, "content-type"),
        ({"data": {"prompt": "x"}}, 415, "content-type"),
        ({"json": {"prompt": "x"}, "headers": {"Content-Encoding": "gzip"}}, 415, "content-encoding"),
        ({"json": {"prompt": "x", "model": "gpt"}}, 404, "model"),
        ({"json": {"prompt": "x"}, "headers": {"Host": "evil.example.org"}}, 421, None),
    ],
)
def test_bad_input_is_refused_in_openai_s_shape(worker, options, status: int, param: str | None) -> None:
    answer = worker.generate(**options)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    "authorization",
    [
        None, "", "Basic", "Basic !!", "Bearer abc", basic("alice", "wrong-canary"),
        basic("bob", "canary-password-7f3a"),
        basic("alice", ""), basic("", ""), basic("alice", "x" * 100), basic("alice", "canary-password-7f3a\0"),
        basic("ALICE", "canary-password-7f3a"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/models", "/nothing", "/docs", "/openapi.json", "/metrics", "/posture"])
def test_without_the_right_credentials_there_is_nothing_but_401(worker, authorization, path: str) -> None:
    headers = {"X-Forwarded-For": f"198.51.100.{abs(hash((authorization, path))) % 250}"}
    if authorization is not None:
        headers["Authorization"] = authorization
    answer = worker.api.get(path, headers=headers)
    assert answer.status_code in {401, 429}
    if answer.status_code == 401:
        assert answer.headers["www-authenticate"] == 'Basic realm="zimage", charset="UTF-8"'
        assert answer.json()["error"]["code"] == "invalid_credentials"


def test_guessing_is_stopped_before_hashing_and_only_for_the_guesser(worker) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9"}
    codes = [worker.api.get("/v1/models", auth=("carol", "x"), headers=headers).status_code for _ in range(30)]
    assert codes[0] == 401
    assert codes[-1] == 429
    assert worker.api.get("/v1/models", auth=("alice", "canary-password-7f3a")).status_code == 200


def test_paths_and_methods(worker) -> None:
    auth = ("alice", "canary-password-7f3a")
    health = worker.api.get("/healthz")
    assert (health.status_code, health.content) == (200, b"")
    assert worker.api.get("/healthz", headers={"Host": "evil"}).status_code == 421
    for path in ("/nothing", "/docs", "/redoc", "/openapi.json", "/metrics", "/posture", "/v1/", "/page/"):
        assert worker.api.get(path, auth=auth).status_code == 404, path
    wrong = worker.api.get("/v1/images/generations", auth=auth)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert worker.api.get("/v1/models", auth=auth, headers={"X-Request-Id": "mine"}).headers["x-request-id"] == "mine"


def test_the_management_port(worker) -> None:
    posture = worker.posture()
    assert posture["phase"] == "ready"
    assert posture["templateRevision"] == "template-1"
    assert posture["certificate"] is None
    assert (posture["auth"]["users"], posture["auth"]["problems"]) == (1, [])
    assert posture["limits"]["queueLength"] == 1
    assert worker.management.get("/health/startup").json() == {"phase": "ready", "loadedFraction": 1.0}
    worker.generate()
    assert worker.metric('zimage_requests_total{outcome="success"}') >= 1
    assert worker.metric("zimage_images_total") >= 1
    assert worker.management.post("/posture").status_code == 405


def test_whoever_leaves_frees_the_gpu_and_a_full_queue_refuses_at_once(worker, eventually) -> None:
    decoded = worker.metric("zimage_images_total")
    running = Departing(worker.port, "alice", "canary-password-7f3a")
    eventually(lambda: worker.metric("zimage_requests_running") == 1)
    waiting = Departing(worker.port, "alice", "canary-password-7f3a")
    eventually(lambda: worker.metric("zimage_requests_waiting") == 1)
    full = worker.generate()
    assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
    assert int(full.headers["retry-after"]) >= 1
    waiting.leave()
    eventually(lambda: worker.metric("zimage_requests_waiting") == 0)
    running.leave()
    eventually(lambda: worker.metric("zimage_requests_running") == 0)
    assert worker.metric("zimage_images_total") == decoded
    assert worker.generate().status_code == 200


def test_a_client_that_drips_its_header_is_cut_off(worker, eventually) -> None:
    with socket.create_connection(("127.0.0.1", worker.port), timeout=60) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")
        slow.settimeout(0.5)
        eventually(lambda: cut_off(slow), 60)


def cut_off(slow: socket.socket) -> bool:
    """Send one byte more and see whether anybody is there."""
    try:
        slow.sendall(b"a")
        return slow.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_what_is_not_http_gets_a_400(worker) -> None:
    with socket.create_connection(("127.0.0.1", worker.port), timeout=60) as odd:
        odd.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert odd.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_credentials_rotate_fail_closed_and_recover(worker, eventually) -> None:
    line = worker.htpasswd.read_text()
    fresh = f"bob:{bcrypt.hashpw(b'fresh-canary', bcrypt.gensalt(4)).decode()}\n"
    try:
        worker.htpasswd.write_text(fresh)
        eventually(lambda: worker.api.get("/v1/models", auth=("bob", "fresh-canary")).status_code == 200)
        assert worker.api.get("/v1/models", auth=("alice", "canary-password-7f3a")).status_code == 401
        worker.htpasswd.write_text(fresh + "carol:$apr1$hash-canary$x\n")
        eventually(lambda: "user carol: apr1 (MD5) is too weak" in worker.why())
        assert worker.management.get("/health/ready").status_code == 503
        assert worker.api.get("/v1/models", auth=("bob", "fresh-canary")).status_code == 401
        (problem,) = worker.posture()["auth"]["problems"]
        assert problem["reason"] == "SecretMalformed"
        assert "canary" not in problem["message"]
        worker.htpasswd.unlink()
        eventually(lambda: worker.posture()["auth"]["problems"][0]["reason"] == "SecretMissing")
        assert "the Secret or its key auth is missing" in worker.why()
        assert worker.api.get("/v1/models", auth=("bob", "fresh-canary")).status_code == 401
    finally:
        worker.htpasswd.write_text(line)
    eventually(lambda: worker.management.get("/health/ready").status_code == 200)
    assert worker.generate().status_code == 200


def test_no_model_then_a_model_then_a_drain(make_worker, tiny_model, tmp_path: Path, eventually) -> None:
    model, tls = tmp_path / "model", tmp_path / "tls.crt"
    made = make_worker(
        model, ZIMAGE_CERTIFICATE_FILE=str(tls), ZIMAGE_ALLOWED_HOSTS="images.example.org,127.0.0.1",
        ZIMAGE_RATE_LIMIT_BURST="5", ZIMAGE_RATE_LIMIT_PER_MINUTE="1",
    )  # fmt: skip
    # The management port listens first.
    eventually(lambda: made.api.get("/healthz").status_code == 200)
    eventually(lambda: made.posture()["phase"] == "failed")
    starting = made.management.get("/health/startup")
    assert (starting.status_code, starting.json()) == (503, {"phase": "failed", "loadedFraction": 0.0})
    assert made.management.get("/health/live").status_code == 200
    posture = made.posture()
    assert posture["model"]["problems"][0]["reason"] == "ModelMissing"
    assert posture["certificate"]["problems"][0]["reason"] == "CertificateMissing"
    assert made.why().count("model") >= 1
    loading = made.generate()
    assert (loading.status_code, loading.json()["error"]["code"]) == (503, "not_ready")
    assert "retry-after" in loading.headers
    tls.write_bytes(b"nonsense")
    eventually(lambda: made.posture()["certificate"]["problems"][0]["reason"] == "CertificateMalformed")
    tls.write_bytes(certificate("*.example.org"))
    eventually(lambda: made.posture()["certificate"]["matchesHost"])
    found = made.posture()["certificate"]
    assert (found["notAfter"], found["dnsNames"]) == ("2027-01-01T00:00:00Z", ["*.example.org"])
    # What the operator makes of it.
    read = read_posture(made.posture())
    assert (read.certificate_wanted, read.matches_host, read.certificate_problems) == (True, True, ())
    assert (read.not_after, read.dns_names) == (datetime(2027, 1, 1, tzinfo=UTC), ("*.example.org",))
    assert [each.reason for each in read.model_problems] == ["ModelMissing"]
    model.symlink_to(tiny_model)
    made.ready()
    told = [json.loads(line)["message"] for line in made.stderr.read_text().splitlines()]
    assert [line for line in told if line in PHASES] == PHASES
    with ThreadPoolExecutor(2) as pool:
        body = {"steps": 200, "size": "256x256"}
        both = [pool.submit(made.generate, body) for _ in range(2)]
        eventually(lambda: made.metric("zimage_requests_waiting") == 1)
        ended = threading.Thread(target=made.process.terminate)
        ended.start()
        eventually(lambda: made.management.get("/health/ready").status_code == 503)
        late = made.generate()
        assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")
        assert [each.result().status_code for each in both] == [200, 200]
    assert made.process.wait(60) == 0


def test_the_rate_is_kept_per_address(make_worker, tmp_path: Path, eventually) -> None:
    made = make_worker(
        tmp_path / "no-model", ZIMAGE_AUTH_MODE="None", ZIMAGE_RATE_LIMIT_BURST="3", ZIMAGE_RATE_LIMIT_PER_MINUTE="1"
    )
    eventually(lambda: made.api.get("/healthz").status_code == 200)
    codes = [made.api.get("/v1/models", headers={"X-Forwarded-For": f"{n}, 203.0.113.1"}).status_code for n in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    assert made.api.get("/v1/models", headers={"X-Forwarded-For": "203.0.113.2"}).status_code == 200
    assert "AUTHENTICATION IS OFF" in made.logs()


def test_refusals_in_their_order_and_the_rate_is_kept_per_user(make_worker, tmp_path: Path, eventually) -> None:
    """Each request has everything wrong that comes later, and is refused for what comes first (0102)."""
    made = make_worker(
        tmp_path / "no-model", ZIMAGE_RATE_LIMIT_BURST="4", ZIMAGE_RATE_LIMIT_PER_MINUTE="1",
        ZIMAGE_ALLOWED_HOSTS="127.0.0.1",
    )  # fmt: skip
    eventually(lambda: made.api.get("/healthz").status_code == 200)
    good, wrong, bad = ("alice", "canary-password-7f3a"), ("alice", "wrong-canary"), {"prompt": "x", "size": "17x17"}

    def code(body: object, auth: object = good, address: str = "203.0.113.1", **headers: str) -> tuple[int, str]:
        headers = {"X-Forwarded-For": address, **headers}
        answer = made.generate(json=body, auth=auth, headers=headers)
        return answer.status_code, answer.json()["error"]["code"]

    assert code({"prompt": "x" * 100_000}, wrong, Host="evil.example.org") == (421, "wrong_host")
    assert code({"prompt": "x" * 100_000}, wrong) == (413, "body_too_large")
    assert code(bad, wrong) == (401, "invalid_credentials")
    assert code(bad) == (400, "invalid_value")
    assert code({"prompt": "x"}) == (503, "not_ready")
    # The same user from elsewhere has the same rate; another one from there has its own.
    assert [code(bad, address=f"198.51.100.{n}")[0] for n in range(4)] == [400, 400, 429, 429]
    assert code(bad, address="198.51.100.9") == (429, "rate_limit_exceeded")
    assert made.metric('zimage_rate_limited_total{kind="user"}') == 3
    line = f"bob:{bcrypt.hashpw(b'fresh-canary', bcrypt.gensalt(4)).decode()}\n"
    made.htpasswd.write_text(made.htpasswd.read_text() + line)
    eventually(lambda: made.posture()["auth"]["users"] == 2)
    assert code(bad, ("bob", "fresh-canary"), "198.51.100.10")[0] == 400


def test_no_log_holds_a_password_or_a_prompt(worker, eventually) -> None:
    """Last in the file: everything above has been logged by then."""
    secret = {"prompt": "canary-prompt", "size": "64x64", "steps": 1}
    worker.api.post("/v1/images/generations?q=canary-query", json=secret, auth=("alice", "canary-password-7f3a"))
    hostile = {"Host": "canary-host", "User-Agent": 'quote"\\', "Referer": "http://x/?canary-referer"}
    worker.api.get("/healthz", headers=hostile)
    # The last line; it is written after the answer.
    eventually(lambda: '"quote\\x22\\x5C"' in worker.logs())
    logs = worker.logs()
    assert "canary" not in logs
    assert " - alice [" in logs
    assert '"POST /v1/images/generations HTTP/1.1" 200 ' in logs
    assert " - carol [" not in logs
