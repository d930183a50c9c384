"""The image store: one containerd root in the cache, of which every node gets a clone.

Unpacking the worker's 5 GB twice would take minutes, so it is not done even once: a layer
in containerd is a link to the folder that buildah keeps for it (both are overlayfs layers,
only ever read once committed). The store is thus two small databases and some links. It is
made anew, in about a second, whenever an image changed, and cloned in milliseconds; what a
node adds or deletes touches its own links and nothing else.

Three locks: `build` lets one process build at a time; `store` is held while the store is
replaced or cloned; `use` is shared by every running node, so that old layers are only
removed from buildah's storage when nobody looks.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from . import images, packages
from .binaries import CACHE, locked, say
from .images import BUILD_LOCK, Built, Image
from .keeper import ClusterFailed

ROOT = images.FOLDER / "containerd"
DRAFT = images.FOLDER / "containerd.new"
MARKS = images.FOLDER / "imported"
STORE_LOCK = CACHE / "lock" / "images-store"
USE_LOCK = CACHE / "lock" / "images-use"
NAMESPACE = "k8s.io"
CONTENT = Path("io.containerd.content.v1.content/blobs/sha256")
SNAPSHOTS = Path("io.containerd.snapshotter.v1.overlayfs/snapshots")
DATABASES = (
    Path("io.containerd.metadata.v1.bolt/meta.db"),
    Path("io.containerd.snapshotter.v1.overlayfs/metadata.db"),
)
CONFIGURATION = Path(__file__).parent / "files" / "containerd.toml"
# The newest builds of one image that stay: this checkout's, and another worktree's.
KEPT = 2


def ensure(wanted: list[Image]) -> None:
    """Have every image in the store; unchanged ones cost a hash and nothing else."""
    if not absent(wanted):
        return
    packages.ensure(packages.IMAGES)
    with locked(BUILD_LOCK):
        images.clean_up()
        new = absent(wanted)
        for image in new:
            images.build(image)
        MARKS.mkdir(parents=True, exist_ok=True)
        tags = {*known_tags(), *(image.tag for image in new)}
        fill(DRAFT, sorted(tags))
        with locked(STORE_LOCK):
            shutil.rmtree(ROOT, ignore_errors=True)
            DRAFT.rename(ROOT)
        for image in new:
            mark(image.tag).touch()
        with not_in_use() as free:
            if free:
                forget_old()


def absent(wanted: list[Image]) -> list[Image]:
    """The images that the store does not have; the others count as used now."""
    missing = []
    for image in wanted:
        if ROOT.exists() and mark(image.tag).exists():
            mark(image.tag).touch()
        else:
            missing.append(image)
    return missing


def mark(tag: str) -> Path:
    return MARKS / tag.replace("/", "_")


def known_tags() -> list[str]:
    """What the store has, the most recently used first."""
    paths = sorted(MARKS.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.name.replace("_", "/") for path in paths]


def forget_old() -> None:
    """Remove all but the newest builds of each image from buildah's storage.

    The store forgets them when it is next made; until then it has links that lead nowhere,
    under names that nobody asks for.
    """
    seen: dict[str, int] = {}
    for tag in known_tags():
        name = tag.rpartition(":")[0]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > KEPT:
            mark(tag).unlink()
            images.buildah("rmi", tag, capture=True)


def clone(target: Path) -> None:
    """Make `target` a containerd root that has all images of the store."""
    with locked(STORE_LOCK):
        for name in DATABASES:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
        (target / CONTENT).mkdir(parents=True)
        for blob in (ROOT / CONTENT).iterdir():
            shutil.copyfile(blob, target / CONTENT / blob.name)
        for layer in (ROOT / SNAPSHOTS).iterdir():
            copy = target / SNAPSHOTS / layer.name
            copy.mkdir(parents=True)
            (copy / "fs").symlink_to((layer / "fs").readlink())
            (copy / "work").mkdir()


def hold() -> io.TextIOWrapper:
    """Keep the store's layers while this process (a node's keeper) lives."""
    USE_LOCK.parent.mkdir(parents=True, exist_ok=True)
    handle = USE_LOCK.open("a")
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


@contextlib.contextmanager
def not_in_use() -> Iterator[bool]:
    """Tell whether no node runs, and let none start meanwhile."""
    with USE_LOCK.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


# --- bringing images in -----------------------------------------------------------------


def configuration(root: Path, state: Path, **more: str) -> str:
    """containerd.toml with its paths; without `cni_bin` the Kubernetes half stays off."""
    text = CONFIGURATION.read_text().replace("@ROOT@", str(root)).replace("@STATE@", str(state))
    off = "" if more else '"io.containerd.grpc.v1.cri", '
    text = text.replace("@CRI@", off)
    for name in ("cni_bin", "cni_conf"):
        text = text.replace(f"@{name.upper()}@", more.get(name, ""))
    return text


def fill(root: Path, tags: list[str]) -> None:
    """Make a containerd root that has these images of buildah's storage."""
    shutil.rmtree(root, ignore_errors=True)
    began = time.monotonic()
    with containerd(root) as socket:
        for tag in tags:
            bring(tag, root, socket)
    say(f"made the image store in {time.monotonic() - began:.1f} s")


@contextlib.contextmanager
def containerd(root: Path) -> Iterator[Path]:
    """A containerd for as long as the block; its mounts and processes end with it."""
    root.mkdir(parents=True, exist_ok=True)
    namespaces = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
    with tempfile.TemporaryDirectory(prefix="containerd-") as folder:
        state, log = Path(folder), Path(folder, "log")
        (state / "containerd.toml").write_text(configuration(root, state))
        with log.open("w") as output:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *namespaces, "containerd", "-c", state / "containerd.toml"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            wait_until_it_serves(process, state / "containerd.sock", log)
            yield state / "containerd.sock"
        finally:
            # unshare is killed, the kernel kills the namespace's init; what was answered is on disk.
            process.kill()
            process.wait()


def wait_until_it_serves(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    for _ in range(200):
        if socket.exists() and not ctr(socket, "version", check=False).returncode:
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise ClusterFailed(f"containerd does not serve:\n{log.read_text()[-3000:]}")


def bring(tag: str, root: Path, socket: Path) -> None:
    """Make one built image known to containerd, without packing, copying or unpacking a layer.

    With all its snapshots there, importing an image needs its manifest and configuration alone.
    """
    built = images.built(tag)
    known = {line.split()[0] for line in ctr(socket, "snapshots", "list").stdout.splitlines()[1:]}
    chain = ""
    for digest, folder in built.layers:
        parent, chain = chain, chain_id(chain, digest)
        if chain not in known:
            add_snapshot(root, socket, chain, parent, folder)
    import_image(tag, built, socket)


def chain_id(parent: str, digest: str) -> str:
    """The name of a layer upon its parents (OCI image specification, "Layer ChainID")."""
    return f"sha256:{hashlib.sha256(f'{parent} {digest}'.encode()).hexdigest()}" if parent else digest


def add_snapshot(root: Path, socket: Path, chain: str, parent: str, folder: Path) -> None:
    """Commit a snapshot that is a link to an unpacked layer."""
    before = set((root / SNAPSHOTS).glob("*"))
    draft = f"draft-{chain}"
    ctr(socket, "snapshots", "prepare", draft, *([parent] if parent else []))
    (own,) = set((root / SNAPSHOTS).glob("*")) - before
    (own / "fs").rmdir()
    (own / "fs").symlink_to(folder)
    ctr(socket, "snapshots", "commit", chain, draft)


def import_image(tag: str, built: Built, socket: Path) -> None:
    described = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": f"sha256:{hashlib.sha256(built.manifest).hexdigest()}",
        "size": len(built.manifest),
        "annotations": {"io.containerd.image.name": tag},
    }
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [described]}).encode(),
        **{f"blobs/sha256/{hashlib.sha256(x).hexdigest()}": x for x in (built.manifest, built.config)},
    }
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, content in files.items():
                about = tarfile.TarInfo(name)
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
        file.flush()
        ctr(socket, "images", "import", file.name)


def ctr(socket: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = ["ctr", "-a", str(socket), "-n", NAMESPACE, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and answer.returncode:
        raise ClusterFailed(f"{' '.join(command)}: {answer.stderr.strip()}")
    return answer


def tag_for_pods(socket: Path, wanted: list[tuple[str, str]]) -> None:
    """In a node's own clone, give this checkout's builds the names that pods ask for."""
    for tag, name in wanted:
        ctr(socket, "images", "tag", "--force", tag, name)
