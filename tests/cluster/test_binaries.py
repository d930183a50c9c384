"""Which programs the cluster takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import binaries


def assets(folder: Path, version: str) -> Path:
    program = folder / "kube-apiserver"
    program.write_text(f"#!/bin/sh\necho Kubernetes {version}\n")
    program.chmod(0o755)
    return program


def test_assets_of_our_minor_version_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    minor = binaries.KUBERNETES_VERSION.rsplit(".", 1)[0]
    assert binaries.from_assets("kube-apiserver") is None
    program = assets(tmp_path, f"{minor}.9")
    assert binaries.from_assets("kube-apiserver") == program


@pytest.mark.parametrize("version", ["v1.36.3", "v1.3.0", "v1.370.0"])
def test_assets_of_another_minor_version_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assets(tmp_path, version)
    assert binaries.from_assets("kube-apiserver") is None


def test_a_changed_pin_is_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = binaries.MODULES["etcd"]
    before = binaries.digest(module)
    (tmp_path / "go" / "etcd").mkdir(parents=True)
    for name in ("go.mod", "go.sum"):
        text = (binaries.HERE / "go" / "etcd" / name).read_text()
        (tmp_path / "go" / "etcd" / name).write_text(text)
    monkeypatch.setattr(binaries, "HERE", tmp_path)
    assert binaries.digest(module) == before
    (tmp_path / "go" / "etcd" / "go.mod").write_text(text + "\n")
    assert binaries.digest(module) != before
