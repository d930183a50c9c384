"""What the process tells: access log, structured log, metrics; and what it keeps to itself."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raw_http import connect, exchange
from watching import Prometheus, install, job, watching
from zimage_worker import logs
from zimage_worker.engines import Made, Memory
from zimage_worker.engines.thread import EngineThread
from zimage_worker.images import parse_order
from zimage_worker.metrics import Metrics
from zimage_worker.settings import Limits
from zimage_worker.visible import known_path, origin, words_of

AUTH = ("alice", "canary-password-7f3a")
GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
# nginx's combined format with the time; docs/decisions/0141.
LINE = re.compile(
    r"(?P<address>\S+) - (?P<user>\S+) \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
    r'"(?P<request>[^"]*)" (?P<status>\d{3}) (?P<bytes>\d+) '
    r'"(?P<referer>[^"]*)" "(?P<agent>[^"]*)" (?P<seconds>\d+\.\d{3})'
)
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "worker-metrics.md"


def lines(worker) -> list[re.Match[str]]:
    """Every line of the access log, each in the format."""
    found = [(line, LINE.fullmatch(line)) for line in worker.stdout.read_text().splitlines()]
    assert all(match for _, match in found), [line for line, match in found if not match]
    return [match for _, match in found if match]


# --- access log ---------------------------------------------------------------------------------


# The worker holds the reading end of its own stdout, and never reads.
UNREAD = """
import os, sys
reader, writer = os.pipe()
os.dup2(writer, 1)
os.set_inheritable(reader, True)
os.execv(sys.executable, [sys.executable, "-m", "zimage_worker", "serve"])
"""


def test_a_pipe_that_nobody_reads_stops_nobody(make_worker, tmp_path: Path, eventually) -> None:
    """Of 4,000 lines some 700 fit into the pipe and 2,000 into memory; all are answered, the rest is counted."""
    # No model: nothing here needs one, and the API answers without.
    made = make_worker(tmp_path / "no-model", ["-c", UNREAD])
    eventually(lambda: made.api.get("/healthz").status_code == 200)
    get = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for _ in range(40):
        answers = exchange(made.port, get * 99 + get[:-2] + b"Connection: close\r\n\r\n")
        assert [answer.status for answer in answers] == [200] * 100
    eventually(lambda: made.metric("zimage_access_log_dropped_total") > 0)
    assert made.api.get("/v1/models", auth=AUTH).status_code == 200
    made.process.terminate()
    assert made.process.wait(60) == 0


def test_one_line_a_request_in_nginx_s_format(worker, eventually) -> None:
    before = len(lines(worker))
    headers = {"User-Agent": "reader/1.0", "Referer": "https://user:canary-ref@a.example/canary?canary#canary"}
    worker.api.get("/v1/models?canary=1", auth=AUTH, headers={**headers, "X-Forwarded-For": "203.0.113.77"})
    (line,) = eventually(lambda: lines(worker)[before:])
    assert (line["address"], line["user"], line["request"]) == ("203.0.113.77", "alice", "GET /v1/models HTTP/1.1")
    assert (line["status"], line["agent"], line["referer"]) == ("200", "reader/1.0", "https://a.example")
    assert int(line["bytes"]) > 50


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", "400"),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "414"),
        (GET + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n", "431"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"),
        (b"\x16\x03\x01 canary-bytes\r\n\r\n", "400"),
    ],
)
@pytest.mark.parametrize("port", ["port", "management_port"])
def test_what_the_protocol_refuses_leaves_a_line_without_a_byte_of_it(worker, eventually, data, status, port) -> None:
    before = len(lines(worker))
    exchange(getattr(worker, port), data)
    (line,) = eventually(lambda: lines(worker)[before:])
    assert (line["address"], line["request"], line["status"]) == ("127.0.0.1", "-", status)


@pytest.mark.parametrize("port", ["port", "management_port"])
def test_half_a_header_leaves_a_line(worker, eventually, port: str) -> None:
    before = len(lines(worker))
    assert exchange(getattr(worker, port), GET, half_close=True) == []
    (line,) = eventually(lambda: lines(worker)[before:])
    assert (line["request"], line["status"]) == ("-", "400")


def test_a_client_that_leaves_is_a_499(worker, eventually) -> None:
    before = len(lines(worker))
    with connect(worker.port) as raw:
        token = base64.b64encode(":".join(AUTH).encode())
        body = b'{"prompt":"canary-left","steps":1000,"size":"256x256"}'
        raw.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic %s\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (token, len(body), body)
        )
        eventually(lambda: worker.metric("zimage_requests_running") == 1)
    (line,) = eventually(lambda: lines(worker)[before:])
    assert (line["status"], line["user"], line["request"]) == ("499", "alice", "POST /v1/images/generations HTTP/1.1")


def test_probes_of_the_kubelet_are_no_news_but_strangers_are(worker, eventually) -> None:
    before = len(lines(worker))
    for path in ("/health/live", "/health/ready", "/metrics", "/posture"):
        assert worker.management.get(path).status_code == 200
    worker.management.get("/canary-admin/posture")
    (line,) = eventually(lambda: lines(worker)[before:])
    assert (line["request"], line["status"]) == ("GET /*/posture HTTP/1.1", "404")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/v1/models", "/v1/models"),
        ("/", "/"),
        ("/v1/image/generations", "/v1/*/generations"),
        ("/eyJhbGciOi", "/*"),
        ("/v1//models", "/v1//models"),
        ("/v1/%6dodels", "/v1/*"),
        ("/a" * 40, "/*" * 15 + "/..."),
        ("*", "*"),
    ],
)
def test_only_our_own_words_of_a_path_are_shown(path: str, shown: str) -> None:
    assert known_path(path, words_of(["/v1/models", "/v1/images/generations", "/things/{secret}"])) == shown


@pytest.mark.parametrize(
    ("referer", "shown"),
    [
        ("https://a.example/x?y#z", "https://a.example"),
        ("https://u:p@a.example:8443", "https://a.example:8443"),
        ("https://a.example?u@evil", "https://a.example"),
        ("javascript://x", ""),
        ("secret", ""),
        ("", ""),
    ],
)
def test_a_referer_is_its_origin(referer: str, shown: str) -> None:
    assert origin(referer) == shown


# --- request ids --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [(["abc-1.2_3"], True), (["a" * 64], True), (["a" * 65], False), (["a b"], False), (['a"b'], False),
     (["a", "b"], False), ([""], False), (["ä"], False), ([], False)],
)  # fmt: skip
@pytest.mark.parametrize("port", ["port", "management_port"])
def test_a_sane_id_is_kept_and_another_replaced(worker, port: str, given: list[str], kept: bool) -> None:
    fields = b"".join(b"X-Request-Id: " + each.encode() + b"\r\n" for each in given)
    (answer,) = exchange(getattr(worker, port), GET + fields + b"Connection: close\r\n\r\n")
    if kept:
        assert answer.headers["x-request-id"] == given[0]
    else:
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])


class Breaking:
    """A model that fails."""

    warmed = None

    def weigh(self, _order) -> int:
        return 1

    def generate(self, _order, _seed, _stop, _told) -> Made:
        raise RuntimeError("broken on purpose")

    def memory(self) -> Memory:
        return Memory()


async def test_the_engine_thread_s_lines_bear_the_request_s_id(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    written: list[str] = []

    class Kept(logs.logging.Handler):
        def emit(self, record) -> None:
            written.append(logs.JsonLines().format(record))

    handler, engine = Kept(), EngineThread(tmp_path, lambda _told: Breaking(), lambda: None, lambda _seconds: None)
    logs.logging.getLogger("zimage.engine").addHandler(handler)
    try:
        engine.start()
        while not engine.loaded:
            await asyncio.sleep(0.01)
        logs.request_id.set("mine-42")
        order = parse_order(b'{"prompt": "a", "size": "64x64"}', "", Limits(65536, 8, 1))
        with pytest.raises(Exception, match="failed on this request"):
            await engine.generate(order, 1)
    finally:
        logs.logging.getLogger("zimage.engine").removeHandler(handler)
    failed = [json.loads(line) for line in written if "a generation failed" in line]
    assert [line["request_id"] for line in failed] == ["mine-42"]


def test_stderr_is_json_lines(worker) -> None:
    for line in worker.stderr.read_text().splitlines():
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))


# --- canaries -----------------------------------------------------------------------------------


def test_what_strangers_plant_grows_nowhere(worker, eventually) -> None:
    """In the header, query, body, path, method, user and password; right and wrong ones."""
    c = "canary0"
    wrong = base64.b64encode(f"{c}-user:{c}-pass".encode()).decode()
    half = base64.b64encode(f"alice:{c}-pass".encode()).decode()
    body = {"prompt": f"{c}-prompt", "negative_prompt": f"{c}-no", "size": "64x64", "steps": 1, "user": f"{c}-user"}
    texts = []
    for auth in ({"auth": AUTH}, {"headers": {"Authorization": f"Basic {wrong}"}},
                 {"headers": {"Authorization": f"Basic {half}"}}, {"headers": {"Authorization": f"Bearer {c}.x.y"}},
                 {"headers": {"Authorization": f"{c} x"}}):  # fmt: skip
        planted = {**auth.get("headers", {}), "Cookie": f"a={c}", "X-Api-Key": c, "X-Forwarded-Host": c,
                   "Referer": f"https://a.example/{c}?{c}", "Accept": f"text/{c}", "If-None-Match": c,
                   "X-Forwarded-For": f"{c}, 203.0.113.80", "Forwarded": f"for={c}", "Origin": f"https://{c}",
                   "Content-Language": c}  # fmt: skip
        options = {"auth": auth.get("auth"), "headers": planted}
        for method, path, sent in (
            ("POST", f"/v1/images/generations?key={c}", {"json": body}),
            ("POST", "/v1/images/generations", {"json": body | {"size": "17x17"}}),
            ("POST", "/v1/images/generations", {"json": body | {"model": f"{c}-model"}}),
            ("POST", "/v1/images/generations", {"content": f'{{"prompt": "{c}'.encode()}),
            ("POST", "/v1/images/generations", {"json": body | {"size": f"{c}"}}),
            ("GET", f"/{c}/v1/{c}?{c}", {}),
            ("GET", f"/v1/models/{c}", {}),
            ("DELETE", "/v1/models", {}),
            (c.upper(), "/v1/models", {}),
        ):
            texts.append(worker.api.request(method, path, **options, **sent).text)
        texts.append(worker.api.get("/healthz", headers={"Host": f"{c}.example.org"}).text)
        texts += [worker.management.request(method, f"/{c}", headers=planted).text for method in ("GET", c.upper())]
    for data in (
        c.encode() + b" / HTTP/1.1\r\n\r\n",
        GET + c.encode() + b"\r\n\r\n",
        b"GET http://" + c.encode() + b"/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ):
        texts += [answer.body.decode() for answer in exchange(worker.port, data)]
    texts += [worker.logs(), worker.management.get("/metrics").text, worker.management.get("/posture").text]
    for text in texts:
        # A parameter's own value may not be repeated either.
        assert c not in text.lower(), text[max(0, text.lower().index(c) - 200) :][:400]


# --- metrics ------------------------------------------------------------------------------------


def series(worker) -> set[str]:
    text = worker.management.get("/metrics").text
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


def test_strangers_add_no_series(worker) -> None:
    def visit(number: int) -> None:
        worker.api.request(f"M{number}", f"/{number}", auth=AUTH)
        worker.api.request(f"M{number}", "/v1/models", auth=AUTH)
        worker.api.get("/healthz", headers={"Host": f"h{number}"})
        worker.api.get("/v1/models", auth=(f"u{number}", "x"), headers={"X-Forwarded-For": f"198.18.0.{number}"})
        worker.api.get("/healthz?" + "a" * 5000)

    visit(0)
    before = series(worker)
    for number in range(1, 40):
        visit(number)
    assert series(worker) - before == set()
    assert 'zimage_http_requests_total{handler="none",method="other",status="4xx"}' in before


def test_refusals_are_counted_by_reason(worker) -> None:
    def value(code: str, port: str = "api") -> float:
        return worker.metric(f'zimage_http_refused_total{{code="{code}",port="{port}"}}')

    codes = ("invalid_http", "wrong_host", "uri_too_long", "body_too_large")
    before = [value(code) for code in codes]
    exchange(worker.port, b"nonsense\r\n\r\n")
    worker.api.get("/healthz", headers={"Host": "evil"})
    worker.api.get("/healthz?" + "a" * 5000)
    worker.api.post("/v1/images/generations", content=b"a" * 100_000)
    assert [value(code) - old for code, old in zip(codes, before, strict=True)] == [1, 1, 1, 1]
    old = value("invalid_http", "management")
    exchange(worker.management_port, b"nonsense\r\n\r\n")
    assert value("invalid_http", "management") == old + 1


def test_the_event_loop_is_watched_and_connections_are_counted(worker, eventually) -> None:
    eventually(lambda: worker.metric("zimage_event_loop_lag_seconds_count") > 0)
    before = worker.metric('zimage_connections_open{port="api"}')
    with connect(worker.port):
        eventually(lambda: worker.metric('zimage_connections_open{port="api"}') > before)


def test_fragmentation_is_the_share_of_held_bytes_that_nothing_uses(worker) -> None:
    assert "zimage_gpu_fragmentation_ratio 0.0" in worker.management.get("/metrics").text


# --- the real Prometheus --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prometheus_installed() -> None:
    install()


@pytest.fixture
def prometheus(worker, tmp_path: Path, prometheus_installed) -> Iterator[Prometheus]:
    """The real server, scraping the worker's management port."""
    with watching(tmp_path, [job("worker", worker.management_port)]) as server:
        yield server


def test_prometheus_scrapes_and_answers(worker, prometheus: Prometheus, eventually) -> None:
    worker.generate()
    ask = prometheus.ask
    eventually(lambda: ask("up==1"), 60)
    assert eventually(lambda: ask('zimage_requests_total{outcome="success"}>0'), 60)
    assert eventually(lambda: ask("histogram_quantile(0.99,sum by(le)(zimage_event_loop_lag_seconds_bucket))>=0"), 60)
    (build,) = ask("zimage_build_info")
    assert build["metric"]["version"]


@pytest.mark.usefixtures("prometheus_installed")
def test_promtool_finds_nothing(worker) -> None:
    worker.generate()
    text = worker.management.get("/metrics").content
    found = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (found.returncode, found.stdout + found.stderr) == (0, b"")


# --- the reference --------------------------------------------------------------------------------


def test_the_reference_names_every_metric_and_no_other(worker) -> None:
    """Name, type and help text as the process shows them; `make check` compares the file with the code."""
    worker.generate()
    text = worker.management.get("/metrics").text
    helps = dict(re.findall(r"# HELP (\S+) (.*)", text))
    kinds = dict(re.findall(r"# TYPE (\S+) (.*)", text))
    shown = {(name, kinds[name], helps[name].strip()) for name in helps if not name.endswith("_created")}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| .*? \| (.*?) \|$", REFERENCE.read_text(), re.MULTILINE)
    assert shown == set(rows)


def test_every_own_metric_has_a_help_text_and_bounded_labels() -> None:
    labels = {"outcome", "reason", "kind", "result", "port", "awaited", "code", "version", "rung", "strategy"}
    for metric in Metrics().registry.collect():
        assert metric.documentation
        for sample in metric.samples:
            assert set(sample.labels) <= labels | {"le"}


def test_lines_of_many_threads_do_not_mix(tmp_path: Path) -> None:
    log = logs.AccessLog.at(str(tmp_path / "access"))
    log.start()
    threads = [
        threading.Thread(
            target=lambda n=n: [log.write("::1", "", f"GET /{n} HTTP/1.1", 200, 1, "", "a", 0.1) for _ in range(100)]
        )  # type: ignore[misc]
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    written = (tmp_path / "access").read_text().splitlines()
    assert len(written) == 400
    assert all(LINE.fullmatch(line) for line in written)
