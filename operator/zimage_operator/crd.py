"""spec.py → the CustomResourceDefinition, pure.

pydantic's JSON schema is never structural (references, `anyOf` with null, null defaults):
`structural()` turns the shapes that spec.py uses into what the API server accepts and
refuses every other one, so that nothing is lost on the way without a word.
"""

from __future__ import annotations

from typing import Any

from .names import API_VERSION, GROUP, KIND, MAX_EXPOSURES, NAME_LENGTH, PLURAL, SHORT_NAME, SINGULAR, VERSION
from .spec import NAME_MESSAGE, Spec

Schema = dict[str, Any]

KEPT = frozenset(
    {
        "type",
        "description",
        "enum",
        "default",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "minItems",
        "maxItems",
        "maxProperties",
        "x-kubernetes-validations",
        "x-kubernetes-int-or-string",
    }
)
# Written by pydantic, of no use to the API server.
DROPPED = frozenset({"title", "additionalProperties"})


class SchemaError(Exception):
    """spec.py uses a shape that has no structural form."""


def structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Give the structural form of a pydantic JSON schema.

    References are inlined, `T | None` becomes an optional `T`, null defaults go, a one-value
    literal becomes an enum.

    Raises:
        SchemaError: a union, a tuple of mixed types or another shape without a structural form.
    """
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        return structural({**target, **{key: value for key, value in schema.items() if key != "$ref"}}, definitions)
    if "anyOf" in schema and not schema.get("x-kubernetes-int-or-string"):
        return structural(without_null(schema), definitions)
    result = {key: value for key, value in schema.items() if key in KEPT}
    if result.get("default", ...) in (None, [], {}):
        # Absent says the same, and keeps `kubectl get -o yaml` short.
        del result["default"]
    if "const" in schema:
        result["enum"] = [schema["const"]]
    if "properties" in schema:
        members = schema["properties"].items()
        result["properties"] = {name: structural(member, definitions) for name, member in members}
        if wanted := schema.get("required"):
            result["required"] = wanted
        if "default" in schema and schema["default"] is not None:
            # The members' own defaults fill it: one place for each value, and a part that
            # the user writes half keeps the other half's defaults.
            result["default"] = {}
    elif isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = structural(schema["additionalProperties"], definitions)
    if "items" in schema:
        result["items"] = structural(schema["items"], definitions)
    if schema.get("x-kubernetes-int-or-string"):
        result["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    handled = KEPT | DROPPED | {"properties", "required", "items", "anyOf", "const", "$defs"}
    if unknown := set(schema) - handled:
        raise SchemaError(f"no structural form for {sorted(unknown)}")
    return result


def without_null(schema: Schema) -> Schema:
    """Turn `anyOf: [T, null]` into T; what stands beside the `anyOf` is kept."""
    options = [option for option in schema["anyOf"] if option != {"type": "null"}]
    if len(options) != 1:
        raise SchemaError("a union has no structural form: use one optional member per variant and a rule")
    return {**options[0], **{key: value for key, value in schema.items() if key != "anyOf"}}


def text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def count(description: str, **more: Any) -> Schema:
    return {"type": "integer", "format": "int64", "description": description, **more}


def condition_schema() -> Schema:
    """Give metav1.Condition, as the API conventions have it."""
    return {
        "type": "object",
        "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": text("What is judged, in CamelCase.", maxLength=63),
            "status": text("Whether it holds.", enum=["True", "False", "Unknown"]),
            "reason": text("Why, in CamelCase.", minLength=1, maxLength=128),
            "message": text("What the user can do.", maxLength=4096),
            "lastTransitionTime": text("When `status` last changed.", format="date-time"),
            "observedGeneration": count("The generation that was judged.", minimum=0),
        },
    }


def status_schema() -> Schema:
    """Give the schema of the status. Its default keeps a new object from being taken for healthy.

    kstatus calls an object without status "Current"; -1 can never equal a generation.
    """
    return {
        "type": "object",
        "default": {"observedGeneration": -1},
        "properties": {
            "observedGeneration": count("The generation that this status is about; -1: none yet."),
            "conditions": {
                "type": "array",
                "description": "What holds and what does not, each with a reason and what can be done.",
                "maxItems": 32,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": condition_schema(),
            },
            "url": text("Where the service is published."),
            "replicas": count("Workers that exist."),
            "readyReplicas": count("Workers that take requests."),
            "selector": text("Selects the workers; for `kubectl scale` and autoscalers."),
            "templateRevision": text("Short digest of the pod template in force."),
            "dialect": text("What the edge speaks: read from the IngressClass's controller."),
            "gpu": text("The devices that each worker owns."),
            "auth": text("How callers prove who they are: Basic, JWT, Any (both), or None where that is waived."),
            "lastProbeTime": text(
                "A look at every ready worker at this time gave what NetworkPolicyEnforced says. Newer looks that give "
                "the same are recorded once an hour; zimage_service_last_probe_timestamp_seconds has each.",
                format="date-time",
            ),
            "exposures": {
                "type": "array",
                "description": "Objects that open the service beside its declaration.",
                "maxItems": MAX_EXPOSURES,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["reason", "kind", "namespace", "name"],
                    "properties": {
                        "reason": text("How it opens it, in CamelCase.", maxLength=128),
                        "kind": text("Its kind.", maxLength=63),
                        "namespace": text("Its namespace.", maxLength=63),
                        "name": text("Its name.", maxLength=253),
                    },
                },
            },
            "model": {
                "type": "object",
                "description": "The fetched model that the workers serve.",
                "properties": {
                    "revision": text("The commit that the workers serve."),
                    "digest": text("SHA-256 of the served model's manifest, as the workers have read it."),
                },
            },
            "certificate": {
                "type": "object",
                "description": "The edge's certificate, as a worker reads it.",
                "properties": {"notAfter": text("When the edge's certificate expires.", format="date-time")},
            },
        },
    }


COLUMNS = (
    ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", 0, "Whether everything holds."),
    ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", 0, "Why not, or that it does."),
    ("URL", "string", ".status.url", 0, "Where it is published."),
    ("Auth", "string", ".status.auth", 0, "How callers prove who they are."),
    (
        "Network",
        "string",
        ".status.conditions[?(@.type=='NetworkPolicyEnforced')].reason",
        0,
        "Whether a probe has shown that port 7860 is closed.",
    ),
    ("Replicas", "integer", ".status.readyReplicas", 0, "Workers that take requests."),
    ("Age", "date", ".metadata.creationTimestamp", 0, ""),
    ("Model", "string", ".status.model.revision", 1, "The commit of the model that is served."),
    ("GPU", "string", ".status.gpu", 1, "The devices that each worker owns."),
    ("Message", "string", ".status.conditions[?(@.type=='Ready')].message", 1, "What to do next."),
)


def column(name: str, kind: str, path: str, priority: int, description: str) -> Schema:
    optional = {"priority": priority} if priority else {}
    described = {"description": description} if description else {}
    return {"name": name, "type": kind, "jsonPath": path, **described, **optional}


def definition() -> Schema:
    """Give the whole CustomResourceDefinition."""
    raw = Spec.model_json_schema(by_alias=True)
    spec = structural(raw, raw.get("$defs", {}))
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [column(*entry) for entry in COLUMNS],
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": f"{KIND} is one secured Z-Image text-to-image service ({API_VERSION}).",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                    "spec": spec,
                    "status": status_schema(),
                },
                "x-kubernetes-validations": [
                    {"rule": f"size(self.metadata.name) <= {NAME_LENGTH}", "message": NAME_MESSAGE}
                ],
            }
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
                "categories": ["ai"],
            },
            "versions": [version],
        },
    }
