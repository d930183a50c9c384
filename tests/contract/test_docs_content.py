"""What the documents name is what there is: manifests, fields, values, settings, metrics, commands, tests."""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from support import ROOT
from zimage_operator.__main__ import NO_UID
from zimage_operator.__main__ import parser as operator_parser
from zimage_operator.crd import definition
from zimage_operator.spec import parse

# Decisions and the changelog speak of their day.
PAGES = [path for path in sorted(ROOT.glob("docs/**/*.md")) if path.parent.name not in ("decisions",)]
PAGES += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}
# An indented block belongs to an item of a list.
BLOCK = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
VALUES = yaml.safe_load((ROOT / "charts/zimage-operator/values.yaml").read_text())


def blocks(text: str, *kinds: str) -> Iterator[str]:
    """The fenced blocks of a page, without the indentation of a list around them."""
    for found in BLOCK.finditer(text):
        if found["kind"] in kinds:
            yield re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE)


def manifests() -> list[tuple[str, dict[str, Any]]]:
    """Every whole ZImageService of any page, also within a command that writes it."""
    found = []
    for page, text in TEXTS.items():
        whole = [block for block in blocks(text, "yaml") if "kind: ZImageService" in block]
        whole += re.findall(r"<<'?YAML'?\n(apiVersion: zimage.*?)^YAML$", text, re.MULTILINE | re.DOTALL)
        documents = (item for block in whole for item in yaml.safe_load_all(block.replace("$REVISION", "a" * 40)))
        found += [(page, item) for item in documents if item["kind"] == "ZImageService"]
    return found


def test_there_are_manifests_to_check() -> None:
    assert len({page for page, _ in manifests()}) >= 5


@pytest.mark.parametrize(("page", "body"), manifests(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_manifest_is_taken(page: str, body: dict[str, Any]) -> None:
    """By what `zimage-operator check` asks: strictly, no unknown field."""
    parse({**body, "metadata": {"uid": NO_UID, **body["metadata"]}}, strict=True)


def spans() -> Iterator[tuple[str, str]]:
    for page, text in TEXTS.items():
        yield from ((page, found) for found in SPAN.findall(BLOCK.sub("", text)))


def fields(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, one in schema.get("properties", {}).items():
        yield (*path, name)
        yield from fields(one.get("items", one), (*path, name))


def values(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, one in tree.items() if isinstance(tree, dict) else ():
        yield (*path, name)
        yield from values(one, (*path, name))


SCHEMA = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
KNOWN = {(*path,) for path in fields(SCHEMA)} | set(values(VALUES))
# Of other kinds, or of Python.
FOREIGN = re.compile(
    r"\.(py|md|yaml|yml|lua|json|jsonl|sh|toml|txt|conf|crt|key|safetensors|sha256|png|webp)$|^(status\.containerStatuses|requests\.|metadata\.|img\.)"
)


# An IngressClass's, Traefik's, Envoy's and Argo CD's own, kinds as rights name them, the manifest's, the posture's.
ELSEWHERE = {
    *("spec.controller", "forwardedHeaders.trustedIPs", "deployments.apps", "jobs.batch"),
    *("headers.requestID", "retry.refresh"),
    *("application.sync.impersonation.enabled", "application.sync.impersonation.enforced"),
    *("source.digest", "limits.maxPixels", "model.strategy"),
}


def dotted(text: str) -> tuple[str, ...]:
    """The parts of a span that names a field or a value, such as `auth.jwt: {…}`; nothing for others."""
    found = re.fullmatch(r"([a-z][A-Za-z]*(?:\.[a-z][A-Za-z]*)+)(?:: .*)?", text)
    return tuple(found[1].split(".")) if found and not FOREIGN.search(found[1]) else ()


def named(parts: tuple[str, ...]) -> bool:
    """Whether there is such a path, of the resource (spec. may be left out) or of the chart's values."""
    return any(path[-len(parts) :] == parts for path in KNOWN)


def test_every_field_and_value_that_is_named_exists() -> None:
    asked = {(page, found) for page, text in spans() if (found := dotted(text))}
    assert len(asked) >= 60
    assert {(page, ".".join(parts)) for page, parts in asked if not named(parts)} <= {
        (page, name) for page, _ in asked for name in ELSEWHERE
    }


def test_the_check_of_fields_can_fail() -> None:
    assert not named(dotted("auth.basic.secret"))
    assert named(dotted("auth.basic.secretName: users"))
    assert dotted("spec.py") == ()


def test_every_setting_that_is_named_exists() -> None:
    sources = [*ROOT.glob("operator/**/*.py"), *ROOT.glob("worker/**/*.py"), *ROOT.glob("docs/reference/*-settings.md")]
    known = "".join(path.read_text() for path in sources)
    asked = {name for text in TEXTS.values() for name in re.findall(r"\bZIMAGE_[A-Z_]+[A-Z]\b", text)}
    assert len(asked) >= 10
    short = {name: name.removeprefix("ZIMAGE_OPERATOR_") for name in asked}
    assert {name for name in asked if f"`{short[name]}`" not in known and name not in known} == set()


def metrics() -> set[str]:
    """By the two generated pages; a histogram has three series more."""
    pages = (TEXTS[f"docs/reference/{name}-metrics.md"] for name in ("operator", "worker"))
    names = {name for page in pages for name in re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)}
    return names | {name + part for name in names for part in ("_bucket", "_sum", "_count")}


def test_every_metric_that_is_named_exists() -> None:
    asked = {(page, name) for page, text in TEXTS.items() for name in re.findall(r"\bzimage_[a-z_]+[a-z]\b", text)}
    # The packages, a Python object of them, and the wheel.
    packages = {"zimage_operator", "zimage_worker"}
    # What the metrics adapter of the autoscaling page calls its own.
    known = metrics() | packages | {"zimage_queue_depth"}
    # A page may call a counter without its _total.
    assert {(page, name) for page, name in asked if name not in known and f"{name}_total" not in known} == set()
    assert len(asked) >= 30


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = {line for text in TEXTS.values() for line in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)}
    assert len(lines) >= 8
    assert lines - targets == set()


def test_every_file_and_test_that_is_named_exists() -> None:
    found = {
        (page, name)
        for page, text in TEXTS.items()
        for name in re.findall(r"\b(?:tests|tools|charts|crds)/[\w./-]*\w", text)
    }
    assert len(found) >= 40
    assert {(page, name) for page, name in found if not (ROOT / name).exists()} == set()
    threats = (ROOT / "tests/operator/test_threats.py").read_text()
    rows = re.findall(r"^\| (T\d+) \| `(test_t\d+_)` \|", TEXTS["docs/explanation/threat-model.md"], re.MULTILINE)
    assert [row for row, _ in rows] == [f"T{number}" for number in range(1, 15)]
    for row, prefix in rows:
        assert prefix == f"test_{row.lower()}_"
        assert f"def {prefix}" in threats or f"_{row.lower()}_" in threats


def commands(program: str) -> Iterator[tuple[str, str]]:
    """What pages have their readers type, of one program: in blocks line by line, and in spans."""
    for page, text in TEXTS.items():
        lines = [line for block in blocks(text, "sh", "") for line in block.replace("\\\n", " ").splitlines()]
        lines += SPAN.findall(BLOCK.sub("", text))
        for line in lines:
            if found := re.search(rf"(?:^\s*|\| |\.venv/bin/|ZIMAGE_\S+ ){program} ([a-z][^|#;`]*)", line):
                yield page, found[1].strip()


def flags(parser: ArgumentParser) -> dict[str, set[str]]:
    """The options of each command of a program."""
    (chosen,) = (action for action in parser._actions if isinstance(action, _SubParsersAction))
    return {name: set(each._option_string_actions) for name, each in chosen.choices.items()}


def test_every_command_line_of_the_operator_has_its_options() -> None:
    known = flags(operator_parser())
    assert_known(known, set(commands("zimage-operator")), at_least=8)


def test_every_command_line_of_the_worker_has_its_options() -> None:
    from zimage_worker import plan_command
    from zimage_worker.fetch import command as fetch

    parser = ArgumentParser()
    chosen = parser.add_subparsers()
    fetch.add(chosen)
    plan_command.add(chosen)
    assert_known({**flags(parser), "serve": set(), "tiny": set()}, set(commands("zimage-worker")), at_least=5)


def assert_known(known: dict[str, set[str]], asked: set[tuple[str, str]], at_least: int) -> None:
    assert len(asked) >= at_least
    for page, line in asked:
        command, *rest = shlex.split(line.rstrip(".,:)"))
        # Two or more in one span: `run | render`.
        assert command in known, (page, line)
        used = {word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert used <= known[command], (page, line)


def test_every_value_that_is_set_on_a_command_line_exists() -> None:
    known = {".".join(path) for path in values(VALUES)}
    lines = [
        (page, found) for page, text in TEXTS.items() for found in re.findall(r"--set(?:-json)? '?([\w.]+)=", text)
    ]
    assert len(lines) >= 5
    assert {(page, name) for page, name in lines if name not in known} == set()


def test_a_page_of_values_is_taken_by_the_chart() -> None:
    """What a page writes into values.yaml is named as the chart names it."""
    written = [
        text
        for page in TEXTS.values()
        for text in re.findall(r"values.yaml <<'YAML'\n(.*?)^YAML$", page, re.MULTILINE | re.DOTALL)
    ]
    assert written
    known = set(values(VALUES))
    assert {path for text in written for path in values(yaml.safe_load(text))} <= known


def test_every_reason_that_a_page_names_exists() -> None:
    """Where a page says that a status says it."""
    page = TEXTS["docs/reference/conditions-and-reasons.md"]
    known = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    told = {
        (name, span)
        for name, text in TEXTS.items()
        for span in re.findall(r"(?:Stalled|Ready|says?|is|by)[,:]? `([A-Z][a-z]+[A-Z]\w+)`", text)
    }
    assert len(told) >= 5
    # The HorizontalPodAutoscaler's own.
    foreign = {"FailedGetPodsMetric"}
    assert {(name, span) for name, span in told if span not in known | foreign} == set()
