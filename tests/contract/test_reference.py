"""The pages of docs/reference that are written by hand say what the code does."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from reasons import PLACES, said_by_code, words
from support import ROOT
from zimage_operator import __main__ as operator
from zimage_operator import entrances, errors, model_status, status
from zimage_operator.exposure import ORDER
from zimage_worker import __main__ as worker
from zimage_worker import certificate, problems
from zimage_worker.engines import thread

REASONS = ROOT / "docs" / "reference" / "conditions-and-reasons.md"
EXITS = ROOT / "docs" / "reference" / "exit-codes.md"
# Under whichever condition the object belongs to.
OBJECTS = "Of an object that could not be brought in place"
STATES = {"true": "True", "false": "False", "unknown": "Unknown"}
Told = tuple[str, str, str]


def told() -> set[Told]:
    """What the page says: condition, reason, status."""
    found = set()
    for section in REASONS.read_text().split("\n## ")[1:]:
        title, rows = section.split("\n", 1)[0], re.findall(r"^\| `(\w+)` \| (\w+) \| \S", section, re.MULTILINE)
        found |= {(title, reason, state) for reason, state in rows}
    return found


def calls(module: object) -> Iterator[tuple[ast.FunctionDef, ast.Call, str]]:
    """Every call in the functions of a module, by the last part of what is called."""
    tree = ast.parse(Path(str(module.__file__)).read_text())  # type: ignore[attr-defined]
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for node in ast.walk(function):
            if isinstance(node, ast.Call):
                yield function, node, getattr(node.func, "id", getattr(node.func, "attr", ""))


def judged(module: object, default: str) -> Iterator[Told]:
    """The literal judgements of a module, with the condition that stands in the call or is the function's `kind`."""
    for function, call, name in calls(module):
        if name not in STATES or len(call.args) < 2:
            continue
        given = call.args[0].value if isinstance(call.args[0], ast.Constant) else kind_of(function, default)
        yield from ((str(given), reason, STATES[name]) for reason in words(value_of(call.args[1], function)))


def value_of(node: ast.expr, function: ast.FunctionDef) -> ast.expr:
    """What a name was given in its function, if it was: `reason = "Available" if wanted else "ScaledToZero"`."""
    if isinstance(node, ast.Name):
        assigned = (each for each in ast.walk(function) if isinstance(each, ast.Assign))
        return next((each.value for each in assigned if ast.unparse(each.targets[0]) == node.id), node)
    return node


def kind_of(function: ast.FunctionDef, default: str) -> str:
    """The first string that a function gives the name `kind`."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and "kind" in ast.unparse(node.targets[0]):
            return next(part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant))  # type: ignore[return-value]
    return default


def troubles(module: object, condition: str) -> Iterator[Told]:
    """The literal problems and entrances of a module: each becomes the False of one condition."""
    for _, call, name in calls(module):
        if name in {"Problem", "ModelProblem", "Entrance"} and len(call.args) > PLACES[name]:
            yield from ((condition, reason, "False") for reason in words(call.args[PLACES[name]]))


def descendants(kind: type) -> Iterator[type]:
    yield kind
    for each in kind.__subclasses__():
        yield from descendants(each)


def said() -> set[Told]:
    """What the code can say, from where it says it."""
    found = {*judged(status, ""), *judged(model_status, model_status.KIND)}
    found |= {*troubles(status, "WorkloadReady"), *troubles(model_status, model_status.KIND)}
    found |= {*troubles(thread, "WorkloadReady"), *troubles(entrances, "IngressReady")}
    fetched = set(model_status.EXITS.values()) - UNSAID
    found |= {(model_status.KIND, reason, "False") for reason in fetched}
    found |= {("ExposureAsDeclared", reason, "False") for reason in ORDER} | {("IngressReady", "HostConflict", "False")}
    found |= {("AuthConfigured", reason, "False") for reason in get_args(problems.Reason)}
    found |= {("CertificateReady", reason, "False") for reason in get_args(certificate.Reason)}
    stops = {(kind.reason, "False") for kind in descendants(errors.InvalidSpec)}  # type: ignore[attr-defined]
    waits = {kind.reason: "Unknown" if kind is errors.Issuing else "False" for kind in descendants(errors.Refused)}  # type: ignore[attr-defined]
    found |= {("Ready", *pair) for pair in stops} | {(OBJECTS, *pair) for pair in waits.items()}
    # In one place of AuthConfigured too, with the same meaning.
    return found - {("AuthConfigured", "NotOwned", "False")}


# The fetch's own words for what the status calls DownloadFailed.
UNSAID = {"Fault", "Interrupted"}
SHARED = {"Ready": "Ready, Reconciling and Stalled"} | dict.fromkeys(
    ("TemplateUpdateAvailable", "Suspended"), "TemplateUpdateAvailable and Suspended"
)


def test_the_page_has_each_reason_under_its_condition_with_its_status() -> None:
    assert told() == {(SHARED.get(kind, kind), reason, state) for kind, reason, state in said()}


def test_no_reason_is_missing() -> None:
    """By the ledger's own reading of the code: what this one overlooks, that one has."""
    assert {reason for _, reason, _ in told()} == said_by_code() - UNSAID


def test_every_condition_is_explained() -> None:
    listed = re.findall(r"^\| `(\w+)` \| [^|]{20,} \|", REASONS.read_text().split("\n## ")[0], re.MULTILINE)
    kinds = {kind for kind, _, _ in said()} - {OBJECTS}
    assert set(listed) == kinds | {"Reconciling", "Stalled"}


def test_what_is_said_not_to_hold_ready_back_does_not() -> None:
    """The page's last column against the rule itself."""
    page = REASONS.read_text()
    optional = set(re.findall(r"^\| `(\w+)` \|.*\| Ready all the same", page, re.MULTILINE))
    assert optional == {"ExposureAsDeclared", "MonitoringReady"}
    assert '"ExposureAsDeclared", "TemplateUpdateAvailable", "MonitoringReady"' in Path(status.__file__).read_text()


BAD = "apiVersion: zimage.dev/v1alpha1\nkind: ZImageService\nmetadata: {name: a, namespace: b}\nspec: {}\n"
GOOD = str(ROOT / "crds" / "samples" / "studio.yaml")
# Each row of the page: what is run here, or where else it is.
ROWS: dict[tuple[str, str, str], list[list[str]] | str] = {
    ("zimage-operator", "run", "0"): "tests/operator/test_replicas.py",
    ("zimage-operator", "run", "1"): "tests/operator/test_replicas.py",
    ("zimage-operator", "run", "2"): [["run"]],
    ("zimage-operator", "render, check", "0"): [["check", GOOD], ["render", GOOD]],
    ("zimage-operator", "render, check", "1"): [["check", "bad.yaml"], ["render", "bad.yaml"], ["check", "gone.yaml"]],
    ("zimage-operator", "render, check", "2"): [["check"], ["render"], ["render", "--target", "standalone", GOOD]],
    ("zimage-operator", "crd", "0"): [["crd"]],
    ("zimage-worker", "serve", "0"): "tests/worker/test_process.py",
    ("zimage-worker", "serve", "1"): "tests/worker/test_ends.py",
    ("zimage-worker", "serve", "2"): [["serve"]],
    ("zimage-worker", "fetch", ""): "tests/contract/test_fetch.py",
    ("zimage-worker", "plan", "0"): [["plan", "--gpu-memory", "24Gi", "--size", "1024x1024"]],
    ("zimage-worker", "plan", "1"): [["plan", "--gpu-memory", "1Gi", "--size", "1024x1024"]],
    ("zimage-worker", "plan", "2"): [["plan", "--gpu-memory", "much", "--size", "1024x1024"]],
}


def test_every_exit_code_of_the_page_is_looked_at() -> None:
    found = {}
    for section in EXITS.read_text().split("\n## ")[1:]:
        program = section.split("\n", 1)[0]
        for command, code in re.findall(r"^\| (`.*?`) \| (\d*) ?\|", section, re.MULTILINE):
            found[program, command.replace("`", ""), code] = True
    assert set(found) == set(ROWS)
    for (_, _, code), where in ROWS.items():
        if isinstance(where, str) and code:
            assert re.search(rf"(wait\(60\)|stop\(\)) == {code}\b", (ROOT / where).read_text()), where


def runs() -> list[tuple[str, list[str], int]]:
    given = ((key, each) for key, commands in ROWS.items() if isinstance(commands, list) for each in commands)
    return [(program, command, int(code)) for (program, _, code), command in given]


@pytest.mark.parametrize(("program", "command", "code"), runs())
def test_an_exit_code_is_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, command: list[str], code: int
) -> None:
    (tmp_path / "bad.yaml").write_text(BAD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZIMAGE_OPERATOR_PORT", "none" if command == ["run"] else "8080")
    # The loggers are the test process's own.
    monkeypatch.setattr(operator.logs, "configure", lambda *_: None)
    monkeypatch.setattr(sys, "argv", [program, *command])
    with pytest.raises(SystemExit) as ended:
        sys.exit(operator.main() if program == "zimage-operator" else worker.main())
    assert ended.value.code == code


LOGS = ROOT / "docs" / "reference" / "log-messages.md"
LOUD = {"warning", "error", "critical", "exception"}


def loud_messages() -> set[str]:
    """The first argument of each such call, with … for what is filled in."""
    found = set()
    for path in [*ROOT.glob("operator/zimage_operator/**/*.py"), *ROOT.glob("worker/zimage_worker/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LOUD
                and node.args
            ):
                found.add(re.sub(r"%[.\d]*[a-z]", "…", str(ast.literal_eval(node.args[0]))))
    return found


def test_every_loud_message_has_its_next_step_and_no_other() -> None:
    rows = set(re.findall(r"^\| `(.+?)` \| \S", LOGS.read_text(), re.MULTILINE))
    # What is passed on whole is told beside the tables.
    assert rows == loud_messages() - {"…"}
