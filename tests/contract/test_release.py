"""A release is made of the tree alone: two runs give the same files, and its wheel installs in a clean environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from version import FORM, PLACES, current, told, write

from releases import Helm
from support import ROOT

# Another than the tree's: what is built must not have the tree's anywhere.
VERSION = "7.8.9-rc.1"
UV = Path(sys.executable).parent / "uv"


def make(out: Path, version: str = VERSION) -> subprocess.CompletedProcess[str]:
    """Run what `make release` runs, without the images: two of those were compared by hand (decision 0415)."""
    command = [sys.executable, ROOT / "tools" / "release.py", version, "--out", out, "--without-images"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "SOURCE_DATE_EPOCH": "1700000000"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("release") / "dist"
    answer = make(out)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return out


def test_two_runs_give_the_same_files(dist: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "again").returncode == 0
    files = {path.name: path.read_bytes() for path in dist.iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert sorted(files) == [
        *("SHA256SUMS", "crd.yaml", "install-namespaced.yaml", "install.yaml", "operator.cdx.json", "worker.cdx.json"),
        *("zimage-operator-7.8.9-rc.1.tgz", "zimage_operator-7.8.9rc1-py3-none-any.whl"),
    ]


def test_the_sums_are_those_of_the_files(dist: Path) -> None:
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=dist, capture_output=True, text=True, check=True)
    assert checked.stdout.count(": OK") == len(list(dist.iterdir())) - 1


def test_every_part_has_the_version_that_was_asked_for(dist: Path, tmp_path: Path) -> None:
    text = (dist / "install.yaml").read_text()
    assert re.findall(r"image: (\S+)", text) == [f"ghcr.io/zimage-dev/zimage-operator:{VERSION}"]
    rendered = Helm(tmp_path)("template", "x", dist / f"zimage-operator-{VERSION}.tgz")
    assert set(re.findall(rf"/zimage-\w+:({FORM})", rendered + text)) == {VERSION}
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        assert f'__version__ = "{VERSION}"' in wheel.read("zimage_worker/__init__.py").decode()
    for part in ("operator", "worker"):
        assert json.loads((dist / f"{part}.cdx.json").read_text())["metadata"]["component"]["version"] == VERSION


def test_install_yaml_is_what_the_readme_applies(dist: Path) -> None:
    kinds = [item["kind"] for item in yaml.safe_load_all((dist / "install.yaml").read_text())]
    assert kinds[:2] == ["CustomResourceDefinition", "Namespace"]
    assert kinds[-2:] == ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"]


@pytest.mark.parametrize("part", ["operator", "worker"])
def test_a_bill_lists_what_the_image_installs_with_its_hashes(dist: Path, part: str) -> None:
    """Held against what pip would take of the lock here: the images are Linux with the same Python."""
    bill = json.loads((dist / f"{part}.cdx.json").read_text())
    listed = {f"{item['name']}=={item['version']}" for item in bill["components"]}
    lock = ROOT / "requirements" / f"{part}.txt"
    options = ["--python-platform", "x86_64-manylinux_2_36", "--python-version", "3.11.2", "--no-deps", "--no-annotate"]
    asked = subprocess.run(
        [UV, "pip", "compile", "-q", "--no-header", *options, lock], capture_output=True, text=True, check=True
    )
    assert listed == set(asked.stdout.split())
    for item in bill["components"]:
        assert item["externalReferences"][0]["hashes"], item["name"]


WORKS = {
    "operator": ["clean/bin/zimage-operator", "check", ROOT / "crds/samples/studio.yaml"],
    "worker": ["clean/bin/zimage-worker", "plan", "--gpu-memory", "24Gi", "--size", "1024x1024"],
}


@pytest.mark.parametrize("part", WORKS)
def test_the_wheel_installs_in_a_clean_environment_and_works_there(dist: Path, tmp_path: Path, part: str) -> None:
    """uv takes torch's 5 GB out of its cache by links; `--no-index`: the lock has all that is asked for."""
    (wheel,) = dist.glob("*.whl")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    lock, into = ROOT / "requirements" / f"{part}.txt", ["--python", "clean/bin/python"]
    steps = (
        [UV, "venv", "-q", "--python", sys.executable, "clean"],
        [UV, "pip", "install", "-q", *into, "--require-hashes", "-r", lock],
        [UV, "pip", "install", "-q", *into, "--no-index", f"{wheel}[{part}]"],
        WORKS[part],
        [f"clean/bin/zimage-{part}", "--version"],
    )
    for step in steps:
        answer = subprocess.run(step, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stdout.strip() == VERSION


@pytest.mark.parametrize("wrong", ["1.2", "v1.2.3", "1.2.3; rm -rf /", "latest", ""])
def test_what_is_no_version_is_refused_with_what_to_write(tmp_path: Path, wrong: str) -> None:
    answer = make(tmp_path / "out", wrong)
    assert answer.returncode == 2
    assert "write one such as 1.2.3" in answer.stderr


def test_every_place_says_the_version_of_pyproject() -> None:
    assert {found for _, found in told(ROOT)} == {current(ROOT)}
    assert {name for name, _ in told(ROOT)} == set(PLACES)


def test_no_other_file_names_an_image_of_ours_with_a_version() -> None:
    """The changelog may speak of former releases, and the values' page is made of values.yaml."""
    own = re.compile(rf"zimage-(?:operator|worker):{FORM}")
    places = ("operator", "worker", "charts", "crds", "docs", "tools")
    files = [*ROOT.glob("*"), *(path for place in places for path in (ROOT / place).rglob("*"))]
    texts = {path.relative_to(ROOT): path.read_text(errors="ignore") for path in files if path.is_file()}
    found = {str(name) for name, text in texts.items() if name.suffix != ".pyc" and own.search(text)}
    assert found <= {*PLACES, "docs/reference/chart-values.md", "CHANGELOG.md"}
    assert len(found) > 5


def test_a_version_is_written_in_every_place(tmp_path: Path) -> None:
    for name in PLACES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    write(tmp_path, VERSION)
    assert {found for _, found in told(tmp_path)} == {VERSION}
