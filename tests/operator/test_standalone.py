"""`render --target standalone`: the files, that the programs they are for take them, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import binaries, packages
from support import ROOT, published, smallest, tier_cannot_run
from zimage_operator.__main__ import DEFAULTS, standalone_order
from zimage_operator.edge import standalone
from zimage_operator.edge.standalone import ONE_HOST, Hosts
from zimage_operator.errors import InvalidSpec
from zimage_worker.settings import parse as parse_settings

GOLDEN = Path(__file__).parent / "golden-standalone"
TWO_HOSTS = Hosts(inner="10.0.1.2", dmz="10.0.0.2")
CASES = {"one-host": ONE_HOST, "two-hosts": TWO_HOSTS}


def resource(case: str) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((GOLDEN / case / "resource.yaml").read_text())
    return body


def files(body: dict[str, Any], hosts: Hosts = ONE_HOST) -> dict[str, str]:
    return standalone.files(standalone_order(body, DEFAULTS, hosts))


def compose(case: str) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((GOLDEN / case / "inner" / "compose.yaml").read_text())
    return body


def render(*arguments: object, given: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zimage_operator", "render", "--target", "standalone", *map(str, arguments), "-"]
    environment = {"PYTHONPATH": str(ROOT / "operator"), "PATH": ""}
    return subprocess.run(command, input=given, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("case", CASES)
def test_the_golden_files_are_what_is_rendered(case: str) -> None:
    made = files(resource(case), CASES[case])
    there = {str(path.relative_to(GOLDEN / case)) for path in (GOLDEN / case).rglob("*") if path.is_file()}
    assert there == {*made, "resource.yaml"}
    assert {name: (GOLDEN / case / name).read_text() for name in made} == made


# --- what the files say -----------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_no_container_can_do_more_than_it_must(case: str) -> None:
    services = compose(case)["services"]
    assert set(services) == {"worker", "door"}
    for each in services.values():
        assert each["read_only"] is True
        assert each["cap_drop"] == ["ALL"]
        assert each["security_opt"] == ["no-new-privileges:true"]
        assert each["user"] == "10001:10001"
        assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(each)
        assert all(volume["read_only"] for volume in each["volumes"])
        assert "docker.sock" not in str(each)


@pytest.mark.parametrize("case", CASES)
def test_the_worker_is_on_a_network_without_a_way_out_and_the_door_on_loopback(case: str) -> None:
    made = compose(case)
    assert list(made["services"]["worker"]["networks"]) == ["inner"]
    assert "ports" not in made["services"]["worker"]
    assert made["networks"]["inner"]["internal"] is True
    door = made["services"]["door"]
    if case == "one-host":
        assert door["ports"] == ["127.0.0.1:7860:7860"]
    else:
        # Published by nobody: a process of the host, which ufw sees.
        assert "ports" not in door
        assert door["command"][0] == "10.0.1.2:7860"
    gpu = made["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert gpu == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


@pytest.mark.parametrize("case", CASES)
def test_the_worker_understands_its_settings(case: str) -> None:
    environment = compose(case)["services"]["worker"]["environment"]
    settings = parse_settings({name: text.replace("$$", "$") for name, text in environment.items()})
    assert settings.allowed_hosts == ("img.example.org",)
    assert [str(network) for network in settings.trusted_proxies] == ["172.31.78.0/29"]
    assert settings.port == 7860
    if case == "two-hosts":
        # Of a network without a way out nobody fetches keys.
        assert settings.auth.jwt
        assert (settings.auth.jwt.jwks_url, str(settings.auth.jwt.jwks_file)) == ("", "/etc/zimage/jwks/jwks.json")
        assert settings.auth.jwt.policy.issuer == "https://login.example.org/$realm"
        mounted = {volume["target"] for volume in compose(case)["services"]["worker"]["volumes"]}
        assert {"/etc/zimage/basic", "/etc/zimage/jwks", "/etc/zimage/token", "/etc/zimage/certificate"} < mounted


def test_what_is_left_to_others_is_told() -> None:
    made = files(smallest(suspend=True, gpu={"deviceClassName": "gpu.nvidia.com"}, autoscaling={"maxReplicas": 2}))
    told = made["README.md"].partition("## What this cannot give")[2]
    for word in ("`suspend`", "`gpu.deviceClassName`", "`autoscaling`", "`ingress.tls` (the Secret `img-tls`)"):
        assert word in told
    assert "auth.basic.generate" not in told
    assert yaml.safe_load(made["inner/compose.yaml"])["services"]["worker"]["scale"] == 0
    assert "**Pin the image.**" in made["README.md"]


def test_an_open_service_asks_nobody_and_every_other_one_does() -> None:
    waived = {"mode": "None", "waiverReason": "a museum's screen, on a network of its own"}
    assert "auth_" not in files(smallest(auth=waived))["dmz/nginx.conf"]
    assert "auth_basic zimage;" in files(smallest())["dmz/nginx.conf"]
    jwt = {"issuer": "https://i.example.org", "audiences": ["zimage"], "jwks": {"configMapName": "keys"}}
    asking = files(smallest(auth={"jwt": jwt}))["dmz/nginx.conf"]
    assert "auth_request /_verify;" in asking
    assert "/token" not in asking


# --- what the programs say --------------------------------------------------------------


def accepted(*command: str | Path, **options: Any) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.fixture(scope="session")
def compose_check() -> list[str | Path]:
    """`docker compose config` itself where there is one, or else the library that it is made of."""
    plugin = ["docker", "compose"]
    found = shutil.which("docker") and subprocess.run([*plugin, "version"], capture_output=True, check=False)
    if found and found.returncode == 0:
        return [*plugin, "--file"]
    return [binaries.programs("compose")["compose-check"]]


@pytest.mark.parametrize("case", CASES)
def test_docker_compose_takes_the_file(compose_check: list[str | Path], case: str) -> None:
    command = [*compose_check, GOLDEN / case / "inner" / "compose.yaml"]
    understood = yaml.safe_load(accepted(*command, *(["config"] if len(command) > 2 else [])))
    worker = understood["services"]["worker"]
    written = compose(case)["services"]["worker"]
    # `$$` has become `$`: nothing was put in its place.
    assert worker["environment"] == {name: text.replace("$$", "$") for name, text in written["environment"].items()}
    assert worker["deploy"]["resources"]["reservations"]["devices"][0]["count"] == 1
    assert understood["networks"]["inner"]["internal"] is True
    published = understood["services"]["door"].get("ports", [])
    assert [(port["host_ip"], port["published"]) for port in published] in ([], [("127.0.0.1", "7860")])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("side", ["inner", "dmz"])
def test_nftables_takes_the_rules_twice(case: str, side: str) -> None:
    if os.geteuid() != 0:
        tier_cannot_run("a network namespace needs root")
    packages.ensure(("nftables",))
    rules = GOLDEN / case / side / "nftables.conf"
    accepted("unshare", "--net", "nft", "-c", "-f", rules)
    # Twice: a second load replaces the first, and adds nothing.
    script = 'nft -f "$0" && nft list ruleset && echo ==== && nft -f "$0" && nft list ruleset'
    first, _, second = accepted("unshare", "--net", "sh", "-c", script, str(rules)).partition("====\n")
    assert first == second
    assert "7860" in first


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("side", ["inner", "dmz"])
def test_the_shell_takes_the_commands_of_ufw(case: str, side: str) -> None:
    accepted("sh", "-n", GOLDEN / case / side / "ufw.sh")


# --- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "hosts", "words"),
    [
        (smallest(ingress={**published("a.example.org"), "enabled": False}), ONE_HOST, "spec.ingress.enabled: this"),
        (smallest(ingress=None), ONE_HOST, "spec.ingress: this target publishes a host: write ingress.host"),
        (smallest(gpu={"resourceName": "amd.com/gpu"}), ONE_HOST, "write gpu.resourceName: nvidia.com/gpu"),
        (smallest(gpu={"resourceName": "nvidia.com/mig-3g.40gb"}), ONE_HOST, "whole NVIDIA devices"),
        (smallest(name="a/../b"), ONE_HOST, "metadata.name: write lower-case letters"),
        (smallest(name="a;reboot"), ONE_HOST, "metadata.name: write lower-case letters"),
        (smallest(replica=1), ONE_HOST, "spec.replica: there is no such field"),
        (smallest(), Hosts("10.0.1.2", "127.0.0.1"), "go together"),
        (smallest(), Hosts("127.0.0.1", "10.0.0.2"), "go together"),
        (smallest(), Hosts("10.0.1.0/24", "10.0.0.2"), "--inner-address: write an address such as 10.0.1.2"),
        (smallest(), Hosts("10.0.1.2", "dmz.example.org; }"), "--dmz-address: write an address such as 10.0.1.2"),
    ],
)  # fmt: skip
def test_what_cannot_be_given_is_refused_with_what_to_write(body: dict[str, Any], hosts: Hosts, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words.replace(".", r"\.")):
        files(body, hosts)


def test_a_second_render_gives_the_same_bytes(tmp_path: Path) -> None:
    manifest = (GOLDEN / "two-hosts" / "resource.yaml").read_text()
    options = ("-o", tmp_path / "out", "--inner-address", "10.0.1.2", "--dmz-address", "10.0.0.2")
    first = render(*options, given=manifest)
    assert (first.returncode, first.stderr) == (0, "")
    made = tree(tmp_path / "out")
    assert {name: text for name, text in made.items() if name != "rendered.sha256"} == {
        name: (GOLDEN / "two-hosts" / name).read_bytes() for name in files(resource("two-hosts"), TWO_HOSTS)
    }
    assert render(*options, given=manifest).returncode == 0
    assert tree(tmp_path / "out") == made
    accepted("sha256sum", "--check", "--strict", "rendered.sha256", cwd=tmp_path / "out")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_change_of_the_manifest_replaces_what_was_rendered(tmp_path: Path) -> None:
    assert render("-o", tmp_path, given=yaml.safe_dump(smallest())).returncode == 0
    ingress = {**smallest()["spec"]["ingress"], "host": "other.example.org"}
    answer = render("-o", tmp_path, given=yaml.safe_dump(smallest(ingress=ingress)))
    assert answer.returncode == 0, answer.stderr
    assert "server_name other.example.org;" in (tmp_path / "dmz" / "nginx.conf").read_text()
    # The default image of an unreleased operator is a tag.
    assert answer.stderr == "ghcr.io/zimage-dev/zimage-worker:0.1.0: a tag can be moved; write spec.image.digest\n"


@pytest.mark.parametrize("what", ["foreign", "changed", "link", "record"])
def test_files_of_others_stay_as_they_are_and_nothing_is_written(tmp_path: Path, what: str) -> None:
    if what in {"changed", "record"}:
        assert render("-o", tmp_path, given=yaml.safe_dump(smallest())).returncode == 0
    target = tmp_path / ("rendered.sha256" if what == "record" else "dmz/nginx.conf")
    target.parent.mkdir(exist_ok=True)
    if what == "link":
        (tmp_path / "elsewhere").write_text("mine")
        target.symlink_to(tmp_path / "elsewhere")
    else:
        target.write_text("mine")
    before = tree(tmp_path)
    answer = render("-o", tmp_path, given=yaml.safe_dump(smallest(replicas=2)))
    assert answer.returncode == 1
    assert f"{tmp_path}/" in answer.stderr
    assert "move it away, or choose another folder" in answer.stderr
    assert tree(tmp_path) == before


def test_wrong_usage_is_told_in_a_line(tmp_path: Path) -> None:
    text = yaml.safe_dump(smallest())
    assert render(given=text).stderr == "write -o DIR: the folder for the files\n"
    twice = render("-o", tmp_path / "out", given=f"{text}---\n{text}")
    assert (twice.returncode, twice.stderr) == (1, "-: 2 ZImageServices: write exactly one, for one folder\n")
    (tmp_path / "file").touch()
    blocked = render("-o", tmp_path / "file", given=text)
    assert (blocked.returncode, "Traceback" in blocked.stderr) == (1, False)
    assert not (tmp_path / "out").exists()
