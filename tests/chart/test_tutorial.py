"""The tutorial is run: every block of its commands, in order, by bash, on the real API server with the real helm.

What is played: pods (the fake node), so the download ends when the test says so; and the operator is a process with
the rights and settings that the chart gave it. Blocks that need more are marked on the page, with why.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cluster import binaries
from cluster.control_plane import ControlPlane
from played import finish, room
from releases import Helm, running
from support import CLASS, ROOT

pytestmark = pytest.mark.control_plane

PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(
    r"^(?:<!-- (?P<why>not in the test: [^\n]+) -->\n)?```sh\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
REVISION = "0123456789abcdef0123456789abcdef01234567"


def blocks() -> Iterator[str]:
    """What the page has the reader run, but for what is marked."""
    return (found["text"] for found in BLOCK.finditer(PAGE.read_text()) if not found["why"])


def test_only_what_needs_more_than_an_api_server_is_left_out() -> None:
    left = [found["text"].split()[0] for found in BLOCK.finditer(PAGE.read_text()) if found["why"]]
    assert left == ["REGISTRY=registry.example.org", "curl"]
    assert PAGE.read_text().count("```sh") == len(left) + len(list(blocks()))


def test_every_block_of_the_tutorial_works(
    control_plane: ControlPlane, untouched: None, helm: Helm, tmp_path: Path
) -> None:
    for crds in (binaries.traefik_crds(), binaries.gateway_crds()):
        control_plane.kubectl("apply", "--server-side", "-f", crds)
    control_plane.apply(CLASS)
    folder = tmp_path / "reader"
    folder.mkdir()
    (folder / "charts").symlink_to(ROOT / "charts")
    environment = {**helm.environment, "PATH": str(programs(control_plane, helm, tmp_path))}
    with ExitStack() as stack:
        for text in blocks():
            if "helm uninstall" in text:
                stack.close()
            bash(text, folder, environment)
            if "helm install" in text:
                stack.enter_context(running(control_plane, "zimage-system", tmp_path / "operator"))
            if "kubectl apply -f studio.yaml\n" in text:
                room(control_plane, "team-a")
                finish(control_plane, "team-a", REVISION)
    assert control_plane.get("zis", "-n", "team-a")["items"] == []
    control_plane.kubectl("delete", "namespace", "team-a", "--wait=false")


def programs(cluster: ControlPlane, helm: Helm, folder: Path) -> str:
    """A PATH on which kubectl and helm are those of the test."""
    own = folder / "programs"
    own.mkdir()
    (own / "kubectl").symlink_to(cluster.facts["kubectl"])
    (own / "helm").symlink_to(helm.program)
    return f"{own}{os.pathsep}{os.environ['PATH']}"


def bash(text: str, folder: Path, environment: dict[str, str]) -> None:
    """Run one block; what fails in it fails the test, with what it printed."""
    command = ["bash", "-euo", "pipefail", "-c", text]
    answer = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert answer.returncode == 0, f"{text}\n{answer.stdout}{answer.stderr}"
