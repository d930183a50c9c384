"""The table of the resource's fields, from the CRD: what `kubectl explain` says, on one page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from zimage_operator.crd import definition

Schema = Mapping[str, Any]
HEAD = """\
# The fields of a ZImageService

Made from the types in `operator/zimage_operator/spec.py` by `make generate`; `kubectl explain zis.spec` says the same.
**Bold** is required where what it stands in is written. The rules are judged when you apply: each message says what to
write instead.

| field | type | default | what it is |
|---|---|---|---|
"""
RULES = """
## Rules

| of | what is refused says |
|---|---|
"""
STATUS = """
## Status

| field | type | what it is |
|---|---|---|
"""


def page() -> str:
    """Give one row for each field and each rule."""
    schema = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    fields, status = list(walked(schema["spec"], "spec")), list(walked(schema["status"], "status"))
    rows = (f"| {mark(path, needed)} | {kind(one)} | {default(one)} | {about(one)} |\n" for path, one, needed in fields)
    rules = (
        f"| `{path}` | {cell(rule['message'])} |\n"
        for path, one in [("spec", schema["spec"]), *((path, one) for path, one, _ in fields)]
        for rule in one.get("x-kubernetes-validations", ())
    )
    told = (f"| `{path}` | {kind(one)} | {about(one)} |\n" for path, one, _ in status)
    return HEAD + "".join(rows) + RULES + "".join(rules) + STATUS + "".join(told)


def walked(schema: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    """Give every field below one, with its path and whether it is required there."""
    for name, one in schema.get("properties", {}).items():
        yield f"{path}.{name}", one, name in schema.get("required", ())
        yield from walked(one.get("items", one), f"{path}.{name}{'[]' * ('items' in one)}")


def mark(path: str, needed: bool) -> str:
    return f"**`{path}`**" if needed else f"`{path}`"


def kind(schema: Schema) -> str:
    """Give the type in a word or two, with the values where there are few."""
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "items" in schema:
        return f"list of {kind(schema['items'])}"
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"map of {kind(schema['additionalProperties'])}"
    limits = [f"{sign} {schema[name]}" for name, sign in (("minimum", "≥"), ("maximum", "≤")) if name in schema]
    return " ".join([str(schema.get("type", "any")), *limits])


def default(schema: Schema) -> str:
    return f"`{json.dumps(schema['default'])}`" if "default" in schema else ""


def about(schema: Schema) -> str:
    return cell(schema.get("description", schema.get("items", {}).get("description", "")))


def cell(text: str) -> str:
    """Give a text that does not break out of its cell."""
    return " ".join(text.replace("|", "\\|").split())
