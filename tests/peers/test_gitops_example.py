"""docs/gitops/example: its CI refuses what it says it refuses. test_flux.py and test_argocd.py run the rest of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import binaries

from .gitops import EXAMPLE, STUDIO

# A cold start builds kubectl for minutes; no cluster is asked.
pytestmark = [pytest.mark.peers, pytest.mark.timeout(300, func_only=True)]


def test_no_secret_is_in_it() -> None:
    kinds = {
        item["kind"]
        for path in EXAMPLE.rglob("*.yaml")
        for item in yaml.safe_load_all(path.read_text())
        if "kind" in item
    }
    assert {"ZImageService", "ExternalSecret", "SealedSecret", "HelmRelease", "Application"} <= kinds
    assert "Secret" not in kinds


def workflow() -> dict[str, Any]:
    """Its CI, as YAML."""
    found: dict[str, Any] = yaml.safe_load((EXAMPLE / ".github/workflows/check.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def kubectl() -> Path:
    return binaries.programs("control-plane")["kubectl"]


@pytest.fixture
def clone(tmp_path: Path, kubectl: Path) -> Path:
    """The example as a clone of itself, as the CI's checkout makes one."""
    origin = tmp_path / "origin"
    shutil.copytree(EXAMPLE, origin)
    git(origin, "init", "--quiet", "--initial-branch=main")
    git(origin, "add", "--all")
    git(origin, "commit", "--quiet", "--message=example")
    git(tmp_path, "clone", "--quiet", str(origin), "clone")
    programs = tmp_path / "bin"
    for folder in (programs, tmp_path / "temp"):
        folder.mkdir()
    (programs / "kubectl").symlink_to(kubectl)
    (programs / "zimage-operator").symlink_to(Path(sys.executable).with_name("zimage-operator"))
    return tmp_path / "clone"


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", folder, "-c", "core.hooksPath=/dev/null", *who, *arguments], check=True)


def step(clone: Path, name: str) -> tuple[int, str, str]:
    """Run one step of the workflow as GitHub runs it: exit code, output, what it wrote into the summary."""
    summary = clone.parent / "summary"
    there = workflow()
    script = next(one["run"] for one in there["jobs"]["services"]["steps"] if one.get("name") == name)
    environment = {
        **os.environ,
        **there["env"],
        "PATH": f"{clone.parent / 'bin'}:{os.environ['PATH']}",
        "RUNNER_TEMP": str(clone.parent / "temp"),
        "GITHUB_BASE_REF": "main",
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    answer = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    return answer.returncode, answer.stdout + answer.stderr, summary.read_text() if summary.exists() else ""


def test_its_ci_takes_the_example(clone: Path) -> None:
    code, said, _ = step(clone, "check")
    assert (code, said.count("1 ZImageService, no mistakes")) == (0, 2), said


@pytest.mark.parametrize(
    ("path", "old", "new", "said"),
    [
        (STUDIO, "claimName", "claim", "spec.model.persistentVolumeClaim.claim: there is no such field"),
        (STUDIO, "v1alpha1", "v1beta1", "write apiVersion: zimage.dev/v1alpha1"),
        ("teams/team-a/production/kustomization.yaml", "img.example.org", "img.else.org", "ALLOWED_HOSTS"),
        ("teams/team-a/staging/studio-users.yaml", "kind: SealedSecret", "kind: Secret", "a Secret is in Git"),
    ],
    ids=["a typo", "another version", "a host of others", "a Secret"],
)
def test_its_ci_refuses(clone: Path, path: str, old: str, new: str, said: str) -> None:
    file = clone / path
    file.write_text(file.read_text().replace(old, new))
    code, output, _ = step(clone, "check")
    assert code != 0
    assert said in output


def test_its_ci_shows_what_a_change_makes_of_the_children(clone: Path) -> None:
    file = clone / STUDIO
    file.write_text(file.read_text() + "  generation: {maxSteps: 12}\n")
    code, said, summary = step(clone, "render")
    assert code == 0, said
    changed = [line for line in summary.splitlines() if line[:1] in "+-" and "maxSteps" not in line]
    assert summary.startswith("```diff\n")
    assert any("12" in line for line in changed), summary[:3000]
