"""What the README tells a user to type is typed here, against the real process."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import openai
import pytest
import yaml
from PIL import Image

from zimage_worker.__main__ import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PUBLISHED = "https://img.example.org"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_smallest_manifest_is_the_sample_of_the_demo() -> None:
    (manifest,) = (yaml.safe_load(block) for block in blocks("yaml"))
    sample = yaml.safe_load((ROOT / "crds" / "samples" / "studio.yaml").read_text())
    # The sample's model lies in a folder of the volume, and its resources are the tiny model's.
    del sample["spec"]["resources"], sample["spec"]["model"]["persistentVolumeClaim"]["path"]
    assert manifest == sample


def test_the_picture_by_curl_and_by_openai_s_client(gated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = f"http://127.0.0.1:{gated.worker.port}"
    (command,) = (block for block in blocks("sh") if "curl" in block)
    login = "alice:canary-password-7f3a"
    command = command.replace("alice:PASSWORD", login).replace(PUBLISHED, here)
    subprocess.run(["bash", "-ec", f"{command.strip()} --fail --silent --show-error"], check=True)
    with Image.open("fox.png") as fox:
        assert fox.format == "PNG"
        Image.new("RGBA", fox.size, (0, 0, 0, 0)).save("mask.png")

    (program,) = blocks("python")
    token = gated.token().json()["access_token"]
    # The shared process admits small pictures only.
    program = program.replace(PUBLISHED, here).replace("1024x1024", "64x64")
    exec(program, {"openai": openai, "TOKEN": token})


@pytest.mark.parametrize("program", ["zimage-worker plan --gpu-memory 24Gi --size 1024x1024"])
def test_the_plan(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program in README
    assert main(program.split()[1:]) == 0
    assert "resident" in capsys.readouterr().out
