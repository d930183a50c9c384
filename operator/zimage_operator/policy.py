"""What an author of a ZImageService must be allowed to do by hand: a ValidatingAdmissionPolicy, pure.

The operator creates Deployments, Jobs and claims, and has Secrets mounted; who may write a resource must not borrow
that. The rule is CEL with the API server's own authorizer: no webhook, nothing that can be down.
The fields that name Secrets are found in spec.py by their type, so that none is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from annotated_types import MaxLen
from pydantic import BaseModel

from .names import GROUP, PLURAL, VERSION
from .spec import SECRET, Spec

NAME = f"authors.{PLURAL}.{GROUP}"

PLACE = "request.namespace"
# What the operator creates for an author that could do harm, and when (empty: always).
CREATED = (
    ("apps", "deployments", "Deployments", ""),
    ("batch", "jobs", "Jobs", "!object.spec.?model.?huggingFace.hasValue()"),
    ("", "persistentvolumeclaims", "PersistentVolumeClaims", "!object.spec.?model.?huggingFace.hasValue()"),
)
# Who only changes labels or finalizers, as the garbage collector does, borrows nothing.
SPEC_CHANGES = "oldObject == null || object.spec != oldObject.spec"


def secret_fields(model: type[BaseModel] = Spec, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Give the path of every field that names a Secret, and how many it can name (0: it is no list)."""
    for name, field in model.model_fields.items():
        here = (*path, field.alias or name)
        types = list(spread(field.annotation))
        if SECRET in field.metadata or SECRET in types:
            bounds = [item.max_length for item in field.metadata if isinstance(item, MaxLen)]
            yield here, bounds[-1] if tuple in types else 0
        for type_ in types:
            if isinstance(type_, type) and issubclass(type_, BaseModel):
                yield from secret_fields(type_, here)


def spread(annotation: Any) -> Iterator[Any]:
    """Give everything that a type is made of: members of unions, items of lists, and what is annotated."""
    for part in get_args(annotation):
        yield from spread(part)
    yield getattr(annotation, "__origin__", annotation)


def readable(path: tuple[str, ...], many: int) -> Iterator[dict[str, str]]:
    """Build the rules about one field. One check for each expression: two and a half use up its budget of CEL."""
    found = f"object.spec.?{'.?'.join(path)}"
    if not many:
        yield rule(f"!{found}.hasValue()", f"{found}.value()")
    for index in range(many):
        yield rule(f"{found}.orValue([]).size() <= {index}", f"{found}.value()[{index}]")


def rule(absent: str, name: str) -> dict[str, str]:
    """Build the rule that the Secret called `name` may be read by the author, unless it is `absent`."""
    check = f"authorizer.group('').resource('secrets').namespace({PLACE}).name({name}).check('get').allowed()"
    message = (
        f"'you may not read Secret ' + {name} + ' in namespace ' + {PLACE} + "
        "', which this ZImageService names: ask for a Role with get on it'"
    )
    return {"expression": f"{absent} || {check}", "reason": "Forbidden", "messageExpression": message}


def creatable(group: str, plural: str, kinds: str, absent: str) -> dict[str, str]:
    """Build the rule that the author may create the objects that the operator creates for a resource."""
    check = f"authorizer.group('{group}').resource('{plural}').namespace({PLACE}).check('create').allowed()"
    right = f"{plural}.{group}" if group else plural
    message = (
        f"'you may not create {kinds} in namespace ' + {PLACE} + "
        f"', and a ZImageService creates one for you: ask for a Role with create on {right}'"
    )
    expression = f"{absent} || {check}" if absent else check
    return {"expression": expression, "reason": "Forbidden", "messageExpression": message}


def policy() -> list[dict[str, Any]]:
    """Build the policy and its binding."""
    resources = {"apiGroups": [GROUP], "apiVersions": [VERSION], "resources": [PLURAL]}
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [{**resources, "operations": ["CREATE", "UPDATE"]}]},
        "matchConditions": [{"name": "the-spec-changes", "expression": SPEC_CHANGES}],
        "validations": [
            *(creatable(*one) for one in CREATED),
            *(item for path, many in secret_fields() for item in readable(path, many)),
        ],
    }
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": NAME}}
    binding = {"policyName": NAME, "validationActions": ["Deny"]}
    return [
        {**head, "kind": "ValidatingAdmissionPolicy", "spec": spec},
        {**head, "kind": "ValidatingAdmissionPolicyBinding", "spec": binding},
    ]
