"""`zimage-worker fetch` against a real HTTP server that speaks the Hub's protocol, and fails like one."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cluster.ports import free_port
from hub import REPO, REVISION, TOKEN, Faults, HubServer
from zimage_worker import manifest
from zimage_worker.fetch import errors
from zimage_worker.fetch.command import source_of, token
from zimage_worker.fetch.errors import FetchError
from zimage_worker.fetch.fetching import fetch, verify
from zimage_worker.fetch.hub import NotNow, Source
from zimage_worker.fetch.progress import Progress
from zimage_worker.fetch.tensors import cast, parse_header, read_header

ROOT = Path(__file__).parents[2]
SHARD = "transformer/diffusion_pytorch_model-00002-of-00004.safetensors"
INDEX = "transformer/diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model as it is published, and a picture that it makes."""
    folder = tmp_path_factory.mktemp("published")
    paths = (folder / "model", folder / "picture.png")
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "worker"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, ROOT / "tests/worker/publish.py", *paths], env=environ, check=True, timeout=250)
    return paths


@pytest.fixture(scope="module")
def server(published: tuple[Path, Path]) -> Iterator[HubServer]:
    made = HubServer(published[0])
    yield made
    made.close()


@pytest.fixture
def hub(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    # The seconds between tries are for the world, not for a test of the order of things.
    monkeypatch.setattr("zimage_worker.fetch.hub.FIRST_WAIT_SECONDS", 0.01)
    server.faults, server.seen = Faults(), []
    return server


def source(hub: HubServer, **other: object) -> Source:
    return Source(**{"endpoint": hub.url, "repo": REPO, "revision": REVISION, "token": None, "retries": 1, **other})


def progress(report: Path | None = None) -> Progress:
    return Progress(REPO, REVISION, report, False)


def run(hub: HubServer, target: Path, **other: object) -> manifest.Manifest:
    return fetch(source(hub, **other), target, progress()).manifest


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Process:
    """The real program in the background."""

    def __init__(self, hub: HubServer, target: Path, *more: str, limit_bytes: int = 0, **environ: str) -> None:
        self.report = target.parent / "report.json"
        command = [sys.executable, "-m", "zimage_worker", "fetch", "--repo", REPO, "--revision", REVISION]
        command += ["--to", str(target), "--endpoint", hub.url, "--report", str(self.report), *more]
        if limit_bytes:
            command = ["prlimit", f"--fsize={limit_bytes}", *command]
        self.process = subprocess.Popen(
            command,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "worker"), "HF_HUB_OFFLINE": "1", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> tuple[int, str]:
        output = self.process.communicate(timeout=120)[0]
        return self.process.returncode, output

    def said(self) -> dict[str, object]:
        return json.loads(self.report.read_text())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def begin(*args: object, **kwargs: object) -> Process:
        made.append(Process(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield begin
    for each in made:
        each.process.kill()
        each.process.wait()


# --- what is fetched


def test_the_folder_holds_what_the_pipeline_needs_in_bfloat16(hub: HubServer, tmp_path: Path) -> None:
    made = run(hub, tmp_path / "model")
    files = everything(tmp_path / "model")
    assert set(files) == {*made.files, manifest.NAME}
    assert {path for path in files if not path.endswith((".json", ".safetensors", ".jinja"))} <= {
        "tokenizer/merges.txt", "tokenizer/vocab.txt"
    }  # fmt: skip
    assert not any(b"canary" in content for content in files.values())
    assert not any(".fp16." in path for path in files)
    assert read_header(hub.folder / SHARD).tensors[0].dtype == "F32"
    for path in (path for path in files if path.endswith(".safetensors")):
        assert {tensor.dtype for tensor in read_header(tmp_path / "model" / path).tensors} == {"BF16"}, path
    index = json.loads(files[INDEX])
    shards = {name: read_header(tmp_path / "model/transformer" / name) for name in set(index["weight_map"].values())}
    assert len(shards) == 4
    assert all(name in {each.name for each in shards[shard].tensors} for name, shard in index["weight_map"].items())
    assert index["metadata"]["total_size"] == sum(
        each.end - each.begin for shard in shards.values() for each in shard.tensors
    )
    for path in (tmp_path / "model").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_fetched_model_makes_the_original_s_picture_in_the_real_worker(
    hub: HubServer, tmp_path: Path, make_worker, published: tuple[Path, Path]
) -> None:
    import base64
    import hashlib
    import io

    from PIL import Image

    run(hub, tmp_path / "model")
    worker = make_worker(tmp_path / "model").ready()
    answer = worker.generate({"seed": 7, "steps": 2}).json()
    image = Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))
    assert image.tobytes() == Image.open(published[1]).tobytes()
    content = (tmp_path / "model" / manifest.NAME).read_bytes()
    assert worker.posture()["model"]["manifestSha256"] == hashlib.sha256(content).hexdigest()


def test_the_manifest_is_the_same_from_every_mirror_and_tells_the_truth(hub: HubServer, tmp_path: Path) -> None:
    run(hub, tmp_path / "one")
    hub.faults.weights_on_cdn = False
    run(hub, tmp_path / "two")
    assert everything(tmp_path / "one") == everything(tmp_path / "two")
    document = json.loads((tmp_path / "one" / manifest.NAME).read_text())
    assert (document["repo"], document["revision"], document["dtype"]) == (REPO, REVISION, "bfloat16")
    for path, each in document["files"].items():
        known = hub.digests(path)
        assert each["source"]["digest"] in {f"git:{known['blobId']}", known.get("lfs", {}).get("sha256")}


def test_rounding_is_torch_s(tmp_path: Path) -> None:
    bits = np.arange(0, 2**32, 65_521, dtype=np.uint64).astype(np.uint32)
    ties = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0xFF7FFFFF, 0x80000000, 1], np.uint32)
    numbers = np.concatenate([bits, ties]).view(np.float32)
    script = "import sys, torch; raw = bytearray(sys.stdin.buffer.read()); sys.stdout.buffer.write("
    script += "torch.frombuffer(raw, dtype=torch.float32).to(torch.bfloat16).view(torch.int16).numpy().tobytes())"
    command = [sys.executable, "-c", script]
    theirs = subprocess.run(command, input=numbers.tobytes(), capture_output=True, check=True, timeout=120).stdout
    ours, same = (np.frombuffer(content, np.uint16) for content in (cast(numbers.tobytes(), "F32"), theirs))
    whole = ~np.isnan(numbers)
    assert (ours[whole] == same[whole]).all()
    assert np.isnan((ours[~whole].astype(np.uint32) << 16).view(np.float32)).all()


def test_a_large_shard_takes_little_memory(start, server: HubServer, tmp_path: Path) -> None:
    """200 MB in one tensor: the process holds pieces of it only."""
    server.faults, server.seen = Faults(), []
    big = tmp_path / "source"
    shutil.copytree(server.folder, big)
    header = json.dumps({"x": {"dtype": "F32", "shape": [50_000_000], "data_offsets": [0, 200_000_000]}}).encode()
    with (big / "vae/diffusion_pytorch_model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 200_000_000)
    hub = HubServer(big)
    try:
        process = start(hub, tmp_path / "model")
        assert process.end()[0] == 0
    finally:
        hub.close()
    assert process.said()["peakMemoryBytes"] < 220e6
    assert (tmp_path / "model/vae/diffusion_pytorch_model.safetensors").stat().st_size < 101e6


DOWNLOAD = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download(sys.argv[1], revision=sys.argv[2], endpoint=sys.argv[3], cache_dir=sys.argv[4], max_workers=1))
"""


def test_the_hub_of_these_tests_speaks_what_huggingface_hub_s_own_downloader_speaks(
    hub: HubServer, tmp_path: Path
) -> None:
    """Or all others here would show that we understand ourselves."""
    command = [sys.executable, "-c", DOWNLOAD, REPO, REVISION, hub.url, str(tmp_path / "cache")]
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert everything(Path(done.stdout.strip())) == everything(hub.folder)


# --- twice, late, after a crash


def test_a_complete_folder_is_checked_and_left_alone(hub: HubServer, tmp_path: Path) -> None:
    run(hub, tmp_path / "model")
    before = {path: path.stat().st_ino for path in (tmp_path / "model").rglob("*")}
    hub.seen.clear()
    assert fetch(source(hub), tmp_path / "model", progress()).downloaded_bytes == 0
    assert not hub.seen
    assert before == {path: path.stat().st_ino for path in (tmp_path / "model").rglob("*")}


@pytest.mark.parametrize("path", [SHARD, INDEX, manifest.NAME])
def test_a_damaged_folder_is_mended_with_what_is_intact(hub: HubServer, tmp_path: Path, path: str) -> None:
    run(hub, tmp_path / "model")
    whole = everything(tmp_path / "model")
    content = bytearray(whole[path])
    content[-2] ^= 255
    (tmp_path / "model" / path).write_bytes(content)
    with pytest.raises(errors.Damaged):
        verify(tmp_path / "model", progress())
    hub.seen.clear()
    run(hub, tmp_path / "model")
    assert everything(tmp_path / "model") == whole
    if path != manifest.NAME:
        asked = {seen.path.partition(REVISION + "/")[2] for seen in hub.served("hub", "/resolve/")}
        assert asked == {"model_index.json", path}


def test_killed_in_the_middle_it_goes_on_from_there(start, hub: HubServer, tmp_path: Path) -> None:
    hub.faults.bytes_per_second = 400_000
    first = start(hub, tmp_path / "model")
    partials = tmp_path / ".model.fetch" / "partial"
    size = (hub.folder / SHARD).stat().st_size
    name = hub.digests(SHARD)["lfs"]["sha256"]
    wait(lambda: (partials / name).exists() and 50_000 < (partials / name).stat().st_size < size)
    first.process.kill()
    first.process.wait()
    assert not (tmp_path / "model").exists()
    done = [json.loads(line)["path"] for line in (tmp_path / ".model.fetch/journal").read_text().splitlines()]
    assert "text_encoder/model.safetensors" in done
    hub.faults.bytes_per_second, hub.seen = 0, []
    code, output = start(hub, tmp_path / "model").end()
    assert code == 0, output
    ranges = [seen.headers["range"] for seen in hub.served("cdn", SHARD)]
    assert any(re.fullmatch(r"bytes=[1-9][0-9]{4,}-", each) for each in ranges), ranges
    assert not hub.served("cdn", "text_encoder")
    run(hub, tmp_path / "other")
    assert everything(tmp_path / "model") == everything(tmp_path / "other")


def test_sigterm_ends_in_order_and_says_so(start, hub: HubServer, tmp_path: Path) -> None:
    hub.faults.bytes_per_second = 50_000
    port = free_port()
    process = start(hub, tmp_path / "model", "--progress-port", str(port))

    def page() -> dict[str, object]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress", timeout=10) as answer:
                return dict(json.load(answer))
        except OSError:
            return {}

    wait(lambda: page().get("phase") == "downloading" and int(str(page()["bytesDone"])) > 0)
    shown = page()
    assert shown["repo"] == REPO
    assert 0 < int(str(shown["bytesDone"])) < int(str(shown["bytesTotal"]))
    assert "outcome" not in shown
    process.process.send_signal(signal.SIGTERM)
    code, output = process.end()
    assert code == 143
    assert "Traceback" not in output
    assert (process.said()["reason"], process.said()["again"]) == ("Interrupted", True)
    assert not (tmp_path / "model").exists()


def test_only_one_at_a_time(start, hub: HubServer, tmp_path: Path) -> None:
    hub.faults.bytes_per_second = 50_000
    first = start(hub, tmp_path / "model")
    wait((tmp_path / ".model.fetch" / "journal").exists)
    with pytest.raises(errors.TargetInUse, match="another fetch"):
        run(hub, tmp_path / "model")
    first.process.kill()


# --- a hub that fails


@pytest.mark.parametrize("retries", [0, 5])
def test_broken_off_it_goes_on_where_it_was(hub: HubServer, tmp_path: Path, retries: int) -> None:
    hub.faults.cuts = {SHARD: [300_000, 100_000, 50_000]}
    if retries:
        run(hub, tmp_path / "model", retries=1)
        offsets = [seen.headers.get("range") for seen in hub.served("cdn", SHARD)]
        assert offsets[:2] == ["bytes=0-262143", None]
        assert offsets[2] == "bytes=100000-"
    else:
        with pytest.raises(errors.HubUnavailable, match="try again"):
            run(hub, tmp_path / "model", retries=0)
        assert not (tmp_path / "model").exists()


def test_a_hub_without_ranges_is_served_from_the_start(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.no_ranges = True
    hub.faults.cuts = {SHARD: [300_000, 100_000]}
    run(hub, tmp_path / "model")
    hub.faults = Faults()
    run(hub, tmp_path / "other")
    assert everything(tmp_path / "model") == everything(tmp_path / "other")


def test_a_hub_that_lists_no_digests_tells_them_by_head(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.no_digests = True
    run(hub, tmp_path / "model")
    assert hub.served("hub", SHARD, "HEAD")
    hub.faults.no_digests = False
    run(hub, tmp_path / "other")
    assert everything(tmp_path / "model") == everything(tmp_path / "other")


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_a_hub_that_recovers_is_waited_for(hub: HubServer, tmp_path: Path, status: int) -> None:
    hub.faults.statuses = [("/api/", status, {"Retry-After": "0"}), (SHARD, status, {})]
    run(hub, tmp_path / "model")
    assert len(hub.served("hub", "/api/")) == 2


STATUSES = {
    401: (errors.AuthRequired, "private, gated or not there"),
    403: (errors.AuthRequired, "give it the right"),
    404: (errors.RepoNotFound, "check --repo"),
    429: (errors.HubUnavailable, "fewer requests"),
    418: (errors.HubUnavailable, "418"),
    500: (errors.HubUnavailable, "fails (500)"),
    504: (errors.HubUnavailable, "fails (504)"),
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("where", ["/api/", "model_index.json", SHARD])
def test_each_refusal_is_one_line_that_says_what_to_do(hub: HubServer, tmp_path: Path, status: int, where: str) -> None:
    kind, says = STATUSES[status]
    hub.faults.statuses = [(where, status, {})] * 9
    with pytest.raises(FetchError) as caught:
        run(hub, tmp_path / "model")
    if status == 404 and where != "/api/":
        kind, says = errors.NotServable, "lists"
    assert isinstance(caught.value, kind)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "canary" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_hub_that_wants_hours_is_not_waited_for(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.statuses = [("/api/", 429, {"Retry-After": "86400"})]
    with pytest.raises(NotNow) as caught:
        run(hub, tmp_path / "model", retries=5)
    assert caught.value.reason == "HubUnavailable"


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ({"private": True}, errors.AuthRequired, "HF_TOKEN_PATH"),
        ({"gated": True}, errors.AuthRequired, "accept its terms"),
        ({"forbidden": True}, errors.AuthRequired, "right"),
        ({"wrong": {SHARD}}, errors.ChecksumMismatch, "other bytes"),
        ({"wrong": {"vae/config.json"}}, errors.ChecksumMismatch, "vae/config.json"),
        ({"wrong": {INDEX}}, errors.ChecksumMismatch, "other bytes"),
        ({"longer": {SHARD}}, errors.ChecksumMismatch, "more of"),
        ({"longer": {"vae/config.json"}}, errors.ChecksumMismatch, "more of"),
        ({"nonsense": True}, errors.HubUnavailable, "protocol"),
        ({"no_digests": True, "other_commit": True}, errors.NotServable, "another commit"),
    ],
)
def test_what_a_hub_can_do_to_us(hub: HubServer, tmp_path: Path, fault, kind: type[FetchError], says: str) -> None:
    hub.faults = Faults(**fault)
    with pytest.raises(kind, match=re.escape(says)):
        run(hub, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    # Wrong bytes are not kept to be trusted the next time.
    hub.faults = Faults()
    run(hub, tmp_path / "model")
    verify(tmp_path / "model", progress())


def test_a_token_opens_the_private_and_stays_with_the_hub(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.private = True
    run(hub, tmp_path / "model", token=TOKEN)
    assert all(seen.headers["authorization"] == f"Bearer {TOKEN}" for seen in hub.seen if seen.host == "hub")
    assert hub.served("cdn", SHARD)
    assert not any("authorization" in seen.headers for seen in hub.seen if seen.host == "cdn")
    with pytest.raises(errors.AuthRequired, match="refuses the token"):
        run(hub, tmp_path / "other", token="hf_wrong")


def test_without_a_token_none_is_found_on_the_machine(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run(hub, tmp_path / "model", token=None)
    assert not any("authorization" in seen.headers for seen in hub.seen)


@pytest.mark.parametrize(
    ("other", "kind", "says"),
    [
        ({"repo": "tiny/Nothing"}, errors.RepoNotFound, "check --repo"),
        ({"revision": "f" * 40}, errors.RevisionNotFound, "no revision"),
        ({"revision": "main"}, errors.RevisionNotFound, f"write --revision {REVISION}"),
        ({"endpoint": "http://127.0.0.1:9"}, errors.HubUnavailable, "egress"),
        ({"endpoint": "http://nowhere.invalid"}, errors.HubUnavailable, "DNS"),
    ],
)
def test_what_does_not_exist(hub: HubServer, tmp_path: Path, other, kind: type[FetchError], says: str) -> None:
    with pytest.raises(kind, match=re.escape(says)):
        run(hub, tmp_path / "model", **other)


@pytest.mark.parametrize(
    ("path", "content", "says"),
    [
        ("model_index.json", b'{"_class_name": "FluxPipeline"}', "FluxPipeline"),
        ("model_index.json", b'{"_class_name": "ZImagePipeline", "vae": ["own_code", "X"]}', "never run"),
        ("model_index.json", b"[]", "no JSON object"),
        ("model_index.json", b"\xff", "no JSON object"),
        ("model_index.json", None, "no diffusers pipeline"),
        ("vae/diffusion_pytorch_model.safetensors", None, "has no safetensors"),
        ("vae/diffusion_pytorch_model.safetensors", b"\x80\x04pickle", "no safetensors file"),
        ("vae/diffusion_pytorch_model.safetensors", b"\x02\0\0\0\0\0\0\0[]", "no safetensors file"),
        (INDEX, b'{"weight_map": {"x": "diffusion_pytorch_model-00009-of-00004.safetensors"}}', "not there"),
    ],
)
def test_what_cannot_be_served_is_not_fetched(
    server: HubServer, tmp_path: Path, path: str, content: bytes | None, says: str
) -> None:
    folder = tmp_path / "source"
    shutil.copytree(server.folder, folder)
    (folder / path).unlink()
    if content is not None:
        (folder / path).write_bytes(content)
    elif path != "model_index.json":
        (folder / "vae/pytorch_model.bin").write_bytes(b"x")
        says = "only pickled"
    hub = HubServer(folder)
    try:
        with pytest.raises(errors.NotServable, match=says):
            run(hub, tmp_path / "model")
    finally:
        hub.close()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "document",
    [
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}},
        {"x": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}},
        {"x": {"shape": [1]}},
        {"x": 3},
        {name: {"dtype": "U8", "shape": [4], "data_offsets": [at, at + 4]} for name, at in (("a", 0), ("b", 2))},
    ],
)
def test_a_header_that_lies(document) -> None:
    with pytest.raises(errors.NotServable):
        parse_header(json.dumps(document).encode(), "x.safetensors")


# --- the disk


@pytest.mark.parametrize("content", [{"notes.txt": b"mine"}, {"model_index.json": b"{}"}, {"lost+found/x": b""}])
def test_what_others_put_there_is_never_replaced(hub: HubServer, tmp_path: Path, content: dict[str, bytes]) -> None:
    for path, each in content.items():
        (tmp_path / "model" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / path).write_bytes(each)
    with pytest.raises(errors.TargetInUse):
        run(hub, tmp_path / "model")
    assert everything(tmp_path / "model") == content


def test_another_revision_or_a_stranger_s_file_is_not_replaced(hub: HubServer, tmp_path: Path) -> None:
    run(hub, tmp_path / "model")
    with pytest.raises(errors.TargetInUse, match="remove it first"):
        run(hub, tmp_path / "model", revision="f" * 40)
    (tmp_path / "model/vae/own.py").write_text("canary")
    with pytest.raises(errors.TargetInUse, match=r"own\.py"):
        run(hub, tmp_path / "model")
    with pytest.raises(errors.Damaged, match=r"own\.py"):
        verify(tmp_path / "model", progress())


def test_what_nobody_reads_any_more_makes_way(hub: HubServer, tmp_path: Path) -> None:
    """Asked for, and then only what a fetch has made and no process holds."""
    for name in ("old", "served"):
        run(hub, tmp_path / name)
    for name in (".broken.fetch", ".busy.fetch", ".half.fetch", "notes", "lost+found"):
        (tmp_path / name / "files").mkdir(parents=True)
        (tmp_path / name / "lock").touch()
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    run(hub, outside)
    (tmp_path / "link").symlink_to(outside)
    with (tmp_path / ".busy.fetch/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fetch(source(hub), tmp_path / "new", progress())
        assert (tmp_path / "old").exists()
        fetch(source(hub), tmp_path / "new", progress(), ["served", "half"])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"new", "served", ".busy.fetch", ".half.fetch", "notes", "lost+found", "link"}
    assert everything(outside) == everything(tmp_path / "new") == everything(tmp_path / "served")


def test_a_folder_that_is_a_file(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(errors.TargetInUse):
        run(hub, tmp_path / "model")
    with pytest.raises(errors.TargetNotWritable):
        run(hub, tmp_path / "model" / "below")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of its own: a tmpfs. Needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="a small disk is a tmpfs, which needs root"
)


@needs_root
def test_a_disk_that_is_too_small_is_noticed_before_the_download(hub: HubServer, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        with pytest.raises(errors.NoSpace, match="larger volume"):
            run(hub, disk / "model")
        assert not (disk / "model").exists()
        with pytest.raises(errors.TargetNotWritable, match="mount point"):
            run(hub, disk)
    # The heads of the weights only.
    assert all(seen.headers.get("range") == "bytes=0-262143" for seen in hub.seen if seen.host == "cdn")


@needs_root
def test_a_disk_that_fills_up_meanwhile_and_is_freed(start, hub: HubServer, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "80m") as disk:
        hub.faults.bytes_per_second = 400_000
        process = start(hub, disk / "model")
        wait((disk / ".model.fetch/partial" / hub.digests(SHARD)["lfs"]["sha256"]).exists)
        fill(disk / "filler")
        code, output = process.end()
        assert (code, json.loads(output.splitlines()[-1])["level"]) == (15, "error"), output
        assert "run it again" in output
        assert "Traceback" not in output
        assert not (disk / "model").exists()
        (disk / "filler").unlink()
        hub.faults.bytes_per_second = 0
        assert start(hub, disk / "model").end()[0] == 0


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for piece in (b"\0" * 1_000_000, b"\0" * 4096):
            try:
                while file.write(piece) == len(piece):
                    pass
            except OSError:
                continue


def test_a_quota_that_is_reached(start, hub: HubServer, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for a quota: no root, and the same error path."""
    process = start(hub, tmp_path / "model", limit_bytes=200_000)
    code, output = process.end()
    assert code == 15, output
    assert process.said()["reason"] == "NoSpace"
    assert not (tmp_path / "model").exists()


# --- the command


def test_the_token_is_in_no_output_and_the_exit_code_is_the_table_s(start, hub: HubServer, tmp_path: Path) -> None:
    hub.faults.private = True
    (tmp_path / "token").write_text(TOKEN + "\n")
    process = start(hub, tmp_path / "model", HF_TOKEN_PATH=str(tmp_path / "token"))
    code, output = process.end()
    assert code == 0, output
    assert TOKEN not in output + process.report.read_text()
    for line in output.splitlines():
        assert json.loads(line)["message"]
    said = process.said()
    assert (said["outcome"], said["reason"], said["exitCode"]) == ("Succeeded", "Fetched", 0)
    assert said["manifestSha256"]
    assert process.report.stat().st_size < 4096
    failed = start(hub, tmp_path / "other", "--retries", "0", HF_TOKEN="hf_canary_wrong")
    code, output = failed.end()
    assert (code, failed.said()["reason"], failed.said()["exitCode"]) == (10, "AuthRequired", 10)
    assert "hf_canary" not in output + failed.report.read_text()
    assert len([line for line in output.splitlines() if '"level": "error"' in line]) == 1


def test_a_bar_on_a_terminal(hub: HubServer, tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    command = [sys.executable, "-m", "zimage_worker", "fetch", "--repo", REPO, "--revision", REVISION]
    process = subprocess.Popen(
        [*command, "--to", str(tmp_path / "model"), "--endpoint", hub.url],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "worker"), "TERM": "xterm"},
        stderr=secondary,
    )
    os.close(secondary)
    shown = b""
    while True:
        try:
            piece = os.read(primary, 65536)
        except OSError:
            break
        shown += piece
    os.close(primary)
    assert process.wait(60) == 0
    assert b"100%|" in shown
    assert b"zimage-worker fetch: fetched tiny/Z-Image" in shown
    assert b'"level"' not in shown


def arguments(**given: object) -> object:
    from argparse import Namespace

    return Namespace(**{"repo": REPO, "revision": REVISION, "to": Path("x"), "endpoint": None, "retries": 1, **given})


@pytest.mark.parametrize(
    ("given", "environ", "says"),
    [
        ({"repo": None}, {}, "--repo is needed"),
        ({"to": None}, {}, "--to is needed"),
        ({"repo": "../../etc"}, {}, "OWNER/NAME"),
        ({"revision": "x y"}, {}, "40 hex"),
        ({"endpoint": "ftp://x"}, {}, "https://HOST"),
        ({"endpoint": "https://user:canary@x"}, {}, "holds credentials"),
        ({}, {"HF_TOKEN_PATH": "/nonexistent"}, "mount the Secret"),
        ({}, {"HF_TOKEN": "hf_canary\nX-Evil: 1"}, "is no token"),
    ],
)
def test_wrong_use_is_said(given, environ: dict[str, str], says: str) -> None:
    with pytest.raises(errors.WrongUse, match=re.escape(says)) as caught:
        source_of(arguments(**given), environ)  # type: ignore[arg-type]
    assert "canary" not in str(caught.value)


def test_where_endpoint_and_token_come_from(tmp_path: Path) -> None:
    made = source_of(arguments(), {"HF_ENDPOINT": "https://hub.example.org/"})  # type: ignore[arg-type]
    assert made.endpoint == "https://hub.example.org"
    (tmp_path / "token").write_text(" hf_a\n")
    assert token({"HF_TOKEN_PATH": str(tmp_path / "token")}) == "hf_a"
    assert token({"HF_TOKEN": "hf_b", "HF_TOKEN_PATH": "/nonexistent"}) == "hf_b"
    assert token({}) is None


def test_the_documented_exit_codes_are_the_program_s() -> None:
    text = (ROOT / "docs/fetch.md").read_text()
    documented = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FetchError)]
    known = {kind.__name__: kind.exit_code for kind in kinds if kind is not FetchError}
    assert documented == {"Fetched": 0, "Fault": 1, "Interrupted": 143, **known}


def wait(what: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "not within 60 s"
        time.sleep(0.02)


def test_serve_does_not_load_a_folder_that_is_not_whole(hub: HubServer, tmp_path: Path) -> None:
    from zimage_worker.__main__ import loader
    from zimage_worker.metrics import Metrics
    from zimage_worker.settings import parse
    from zimage_worker.state import ModelFacts

    run(hub, tmp_path / "model")
    assert len(manifest.check_sizes(tmp_path / "model")) == 64
    shutil.copytree(tmp_path / "model", tmp_path / "by hand")
    (tmp_path / "by hand" / manifest.NAME).unlink()
    assert manifest.check_sizes(tmp_path / "by hand") == ""
    with (tmp_path / "model" / SHARD).open("r+b") as file:
        file.truncate(1000)
    environ = {"ZIMAGE_AUTH_MODE": "None", "ZIMAGE_ALLOWED_HOSTS": "*", "ZIMAGE_MODEL_PATH": str(tmp_path / "model")}
    facts = ModelFacts()
    with pytest.raises(manifest.ManifestWrong, match="has 1000 bytes"):
        loader(parse(environ), facts, Metrics())(lambda _phase: None)
    assert facts.manifest_sha256 == ""
    (tmp_path / "model" / SHARD).unlink()
    with pytest.raises(manifest.ManifestWrong, match="missing"):
        manifest.check_sizes(tmp_path / "model")
    (tmp_path / "model" / manifest.NAME).write_text('{"format": 1, "files": {"../x": {}}}')
    with pytest.raises(manifest.ManifestWrong, match="damaged"):
        manifest.check_sizes(tmp_path / "model")
