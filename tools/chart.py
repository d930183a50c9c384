"""What the chart has of what stands elsewhere, and what is made of its values.yaml: schema and table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dashboards
import yaml

from zimage_operator.__main__ import document
from zimage_operator.crd import definition
from zimage_operator.manifest import Manifest
from zimage_operator.policy import policy
from zimage_operator.settings import LEVELS, POLICIES

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "zimage-operator"
GENERATED = "# Made by `make generate` from {}.\n"
# Resources that belong to no namespace: no Role can give them.
CLUSTER_WIDE = {"namespaces", "ingressclasses", "gatewayclasses", "customresourcedefinitions"}
# Without GatewayClasses nothing is published by a Gateway: routes of others are looked at, and none is written.
WITH_GATEWAYS = {"gateways", "securitypolicies", "backendtrafficpolicies"}
Schema = dict[str, Any]


def outputs() -> dict[Path, str]:
    """Give every generated file of the chart."""
    values = (CHART / "values.yaml").read_text()
    files = CHART / "files"
    return {
        files / "crd.yaml": GENERATED.format("spec.py") + document(kept(definition())),
        files / "admission-policy.yaml": GENERATED.format("policy.py") + "---\n".join(map(document, policy())),
        files / "rules.yaml": GENERATED.format("operator/install.yaml") + document(rules()),
        **{files / "dashboards" / f"{name}.json": text for name, text in dashboards.outputs().items()},
        CHART / "values.schema.json": json.dumps(schema(yaml.safe_load(values)), indent=2) + "\n",
        ROOT / "docs/reference/chart-values.md": ABOUT_VALUES + "".join(rows(values)),
    }


def kept(item: Manifest) -> Manifest:
    """Give the CRD as helm is to treat it: upgraded with the release, and left when it goes."""
    head = item["metadata"]
    return {
        **item,
        "metadata": {**head, "annotations": {**head.get("annotations", {}), "helm.sh/resource-policy": "keep"}},
    }


def rules() -> dict[str, Any]:
    """Give the operator's rights: cluster-wide, in a namespace that it serves, and in its own."""
    items = yaml.safe_load_all((ROOT / "operator" / "install.yaml").read_text())
    found = {item["kind"]: item["rules"] for item in items if "rules" in item}
    everything = found["ClusterRole"]
    return {
        "cluster": everything,
        "namespace": by_roles(everything),
        "own": found["Role"],
    }


def by_roles(everything: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give those of the cluster-wide rights that a Role can give and that are of use there."""
    left = [rule for rule in everything if not (CLUSTER_WIDE | WITH_GATEWAYS) & set(rule["resources"])]
    return [rule for rule in left if rule["resources"] != ["httproutes"] or "create" not in rule["verbs"]]


TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
PORTS: Schema = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 1, "maximum": 65535}}
NAMES: Schema = {
    "type": "array",
    "uniqueItems": True,
    "items": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"},
}
# What a default alone does not tell.
NARROWER: dict[str, Schema] = {
    "replicas": {"type": "integer", "minimum": 1, "maximum": 5},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "image.pullSecrets": NAMES,
    "settings.watchNamespaces": NAMES,
    "settings.updatePolicy": {"enum": list(POLICIES)},
    "settings.logLevel": {"enum": list(LEVELS)},
    "settings.logFormat": {"enum": ["json", "text"]},
    "settings.probeIntervalSeconds": {"type": "integer", "minimum": 0, "maximum": 86400},
    "settings.port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "networkPolicy.apiServerPorts": PORTS,
    "networkPolicy.edgePorts": PORTS,
    "networkPolicy.metricsNamespaces": NAMES,
    # The API server judges what is in these.
    "resources": {"type": "object"},
    "affinity": {"type": "object"},
    "tolerations": {"type": "array", "items": {"type": "object"}},
}


def schema(values: Mapping[str, Any]) -> Schema:
    """Give the JSON schema of the values: nothing but what values.yaml names, of the type that it has there."""
    return {"$schema": "http://json-schema.org/draft-07/schema#", **closed(values, "")}


def closed(values: Mapping[str, Any], path: str) -> Schema:
    """Give the schema of one map with fixed names."""
    found = {name: one(value, f"{path}{name}") for name, value in values.items()}
    # Helm puts these beside a chart's own values where it is another's dependency.
    free = {} if path else {"global": {"type": "object"}}
    return {"type": "object", "additionalProperties": False, "properties": {**found, **free}}


def one(value: Any, path: str) -> Schema:
    """Give the schema of one value."""
    if path in NARROWER:
        return NARROWER[path]
    match value:
        case bool():
            return {"type": "boolean"}
        case str():
            return {"type": "string"}
        case list():
            return {"type": "array", "items": {"type": "string"}}
        case {}:
            return closed(value, f"{path}.") if value else TEXTS
    raise TypeError(f"values.yaml: {path} has a default of which no type can be read: add it to NARROWER")


ABOUT_VALUES = """\
# The chart's values

Made from `charts/zimage-operator/values.yaml` by `make generate`.
`values.schema.json` refuses every other name and type.

| value | default | what it is |
|---|---|---|
"""
LINE = re.compile(r"^(?P<indent> *)(?P<name>\w+):(?P<value>.*)$")


def rows(text: str) -> Iterator[str]:
    """Give one row for each value that has a comment above it (and each needs one, if it has no values below it)."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.strip().lstrip("# "))
        elif found := LINE.match(line):
            # What is below `resources` is one default, not values of ours.
            if path[:1] == ["resources"] and found["indent"]:
                continue
            path = [*path[: len(found["indent"]) // 2], found["name"]]
            value = found["value"].strip()
            if value or path == ["resources"]:
                yield row(".".join(path), value or "see values.yaml", comment)
            comment = []
        elif not line:
            comment = []


def row(name: str, default: str, comment: list[str]) -> str:
    """Write one row."""
    if not comment:
        raise ValueError(f"values.yaml: {name} has no comment above it: say what it is")
    return f"| `{name}` | `{default}` | {' '.join(comment)} |\n"
