"""The commands that need no cluster, as a user calls them."""

from __future__ import annotations

import subprocess
import sys

from support import ROOT
from zimage_operator.__main__ import leaves
from zimage_operator.leader import LostLease

SAMPLE = ROOT / "crds" / "samples" / "studio.yaml"
PROGRAM = [sys.executable, "-m", "zimage_operator"]


def run(*arguments: object, given: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT / "operator"), "PATH": ""}
    environment |= {f"ZIMAGE_OPERATOR_{name}": text for name, text in settings.items()}
    return subprocess.run(command, input=given, capture_output=True, text=True, env=environment, check=False)


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """`render … | head -1`: neither a traceback nor an exit code of failure."""
    script = f"set -o pipefail; {' '.join(PROGRAM)} render {SAMPLE} | head -1"
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, cwd=ROOT / "operator")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "apiVersion: networking.k8s.io/v1\n", "")


def test_what_ended_the_operator_is_said_without_the_groups_around_it() -> None:
    lost, other = LostLease("could not renew the Lease"), OSError("the port is taken")
    assert list(leaves(ExceptionGroup("unhandled errors", [ExceptionGroup("more", [lost]), other]))) == [lost, other]
    assert list(leaves(lost)) == [lost]


def test_a_file_that_is_not_there_is_said_in_one_line() -> None:
    for command in ("render", "check"):
        answer = run(command, "/no/such/file")
        assert (answer.returncode, answer.stderr) == (1, "/no/such/file: No such file or directory\n")


def test_check_names_every_mistake_and_where_it_is() -> None:
    good = run("check", SAMPLE)
    assert (good.returncode, good.stdout) == (0, f"{SAMPLE}: 1 ZImageService, no mistakes\n")
    manifest = "apiVersion: zimage.dev/v1alpha1\nkind: ZImageService\nmetadata: {name: a}\nspec: {replica: 1}\n"
    bad = run("check", "-", given=manifest)
    assert bad.returncode == 1
    assert "-: spec.replica: there is no such field" in bad.stderr


def test_a_resource_of_another_version_is_not_passed_over() -> None:
    """The API server would refuse it: "0 ZImageServices, no mistakes" would be no help."""
    manifest = SAMPLE.read_text().replace("zimage.dev/v1alpha1", "zimage.dev/v1")
    for command in ("check", "render"):
        answer = run(command, "-", given=manifest)
        assert (answer.returncode, answer.stdout) == (1, "")
        assert answer.stderr == "-: ZImageService of apiVersion zimage.dev/v1: write apiVersion: zimage.dev/v1alpha1\n"


def test_check_and_render_hold_the_bounds_that_are_set() -> None:
    for command in ("check", "render"):
        told = run(command, SAMPLE, ALLOWED_HOSTS="other=.example.org", ALLOWED_PRIORITY_CLASSES="gpu")
        assert (told.returncode, told.stdout) == (1, "")
        assert "ZIMAGE_OPERATOR_ALLOWED_HOSTS" in told.stderr
        fine = run(command, SAMPLE, ALLOWED_HOSTS=".example.org")
        assert (fine.returncode, fine.stderr) == (0, "")
        wrong = run(command, SAMPLE, ALLOWED_HOSTS="*")
        assert wrong.returncode == 2
        assert wrong.stderr.startswith("ZIMAGE_OPERATOR_ALLOWED_HOSTS: '*' will not do")


def test_every_sample_is_sound_and_renders() -> None:
    samples = sorted(SAMPLE.parent.glob("*.yaml"))
    assert len(samples) > 1
    assert run("check", *samples).stderr == ""
    for sample in samples:
        assert "kind: Deployment" in run("render", sample).stdout


def test_check_says_offline_what_fits_the_memory() -> None:
    text = (SAMPLE.with_name("hugging-face.yaml")).read_text() + "  generation: {maxPixels: 16777216}\n"
    for command in ("check", "render"):
        bad = run(command, "-", given=text)
        assert bad.returncode == 1
        assert "write at most 10758400, or more memory" in bad.stderr


def test_the_crd_is_the_committed_one() -> None:
    assert run("crd").stdout == (ROOT / "crds" / "zimage.dev_zimageservices.yaml").read_text()
