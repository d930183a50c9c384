"""The images prove themselves: the key sees every change and only changes; warm costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import images, store
from cluster.images import Image
from cluster.node import Node


@pytest.fixture
def image(tmp_path: Path) -> Image:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.py").write_text("print('one')\n")
    (tmp_path / "other.txt").write_text("not copied\n")
    dockerfile = tmp_path / "Dockerfile"
    lines = [f"FROM {images.BASE}", "COPY --chmod=0644 \\", "  code/ /code/", 'CMD ["python3", "/code/main.py"]']
    dockerfile.write_text("\n".join(lines) + "\n")
    return Image("localhost/trial:test", dockerfile, tmp_path)


def test_the_key_covers_the_dockerfile_and_what_it_copies(image: Image) -> None:
    key = image.key
    (image.context / "other.txt").write_text("changed\n")
    (image.context / "code" / "__pycache__").mkdir()
    (image.context / "code" / "__pycache__" / "main.pyc").write_text("")
    assert image.key == key
    (image.context / "code" / "main.py").write_text("print('two')\n")
    changed = image.key
    assert changed != key
    (image.context / "code" / "main.py").chmod(0o755)
    executable = image.key
    assert executable not in {key, changed}
    image.dockerfile.write_text(image.dockerfile.read_text() + "USER 1\n")
    assert image.key not in {key, changed, executable}


def test_what_is_not_there_to_copy_is_named(image: Image) -> None:
    (image.context / "code" / "main.py").unlink()
    (image.context / "code").rmdir()
    with pytest.raises(Exception, match="copies code/"):
        _ = image.key


def test_a_chain_id_covers_the_layers_below() -> None:
    assert store.chain_id("", "sha256:a") == "sha256:a"
    # printf 'sha256:a sha256:b' | sha256sum
    digest = "970a948bffa8de94d6e22d747ba8c95030e6e546909f98f54e99a13005e173a8"
    assert store.chain_id("sha256:a", "sha256:b") == f"sha256:{digest}"


@pytest.mark.node
def test_a_changed_file_reaches_the_pod_and_an_unchanged_image_costs_nothing(
    image: Image, node_tier: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dockerfile = image.dockerfile.read_text()
    # A layer that deletes and one that replaces: the marks of overlayfs must mean the same to both.
    layers = "RUN rm -r /usr/share/zoneinfo && rm /etc/motd 2>/dev/null; mkdir -p /etc/apt/new && rm -r /etc/apt\n"
    image.dockerfile.write_text(dockerfile + layers + "RUN mkdir /etc/apt && echo kept >/etc/apt/file\n")
    store.ensure([image, images.pause_image()])
    with monkeypatch.context() as patch:
        # What would take time: nothing is built, and the store is not filled again.
        patch.setattr(images, "build", fail)
        patch.setattr(store, "fill", fail)
        store.ensure([image, images.pause_image()])
    (image.context / "code" / "main.py").write_text(
        "import os; print(os.listdir('/etc/apt'), os.path.exists('/usr/share/zoneinfo'))\n"
    )
    with Node([image], gpus=0, policy="none", pod_security="privileged") as node:
        run = ["run", "once", f"--image={image.name}", "--image-pull-policy=Never", "--restart=Never"]
        node.kubectl(*run)
        phase = "jsonpath={.status.phase}=Succeeded"
        node.kubectl("wait", f"--for={phase}", "pod/once", "--timeout=120s")
        assert node.kubectl("logs", "once").strip() == "['file'] False"
    forget(image)


def fail(*_: object) -> None:
    raise AssertionError("an unchanged image was brought in again")


def forget(image: Image) -> None:
    """Nobody will ask for a trial's builds again."""
    for path in store.MARKS.glob(f"{image.name.rpartition(':')[0].replace('/', '_')}:*"):
        images.buildah("rmi", path.name.replace("_", "/"), capture=True)
        path.unlink()
