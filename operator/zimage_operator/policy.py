"""What an author of a ZImageService must be allowed to do by hand: a ValidatingAdmissionPolicy, pure.

The operator creates Deployments and has Secrets mounted; who may write a resource must not borrow
that. The rule is CEL with the API server's own authorizer: no webhook, nothing that can be down.
The fields that name Secrets are found in spec.py by their type, so that none is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from .names import GROUP, PLURAL, VERSION
from .spec import SECRET, Spec

NAME = f"authors.{PLURAL}.{GROUP}"

DEPLOYMENTS = "authorizer.group('apps').resource('deployments').namespace(variables.place).check('create').allowed()"
SECRETS = "authorizer.group('').resource('secrets').namespace(variables.place).name(secret).check('get').allowed()"


def secret_fields(model: type[BaseModel] = Spec, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Give the path of every field that names a Secret, and whether it is a list of names."""
    for name, field in model.model_fields.items():
        here = (*path, field.alias or name)
        types = list(spread(field.annotation))
        if SECRET in field.metadata or SECRET in types:
            yield here, tuple in types
        for type_ in types:
            if isinstance(type_, type) and issubclass(type_, BaseModel):
                yield from secret_fields(type_, here)


def spread(annotation: Any) -> Iterator[Any]:
    """Give everything that a type is made of: members of unions, items of lists, and what is annotated."""
    for part in get_args(annotation):
        yield from spread(part)
    yield getattr(annotation, "__origin__", annotation)


def secrets_expression() -> str:
    """Build the CEL list of all Secrets that a resource names."""
    fields = list(secret_fields())
    single = [f"?object.spec.?{'.?'.join(path)}" for path, many in fields if not many]
    lists = [f"object.spec.?{'.?'.join(path)}.orValue([])" for path, many in fields if many]
    return " + ".join([f"[{', '.join(single)}]", *lists])


def policy() -> list[dict[str, Any]]:
    """Build the policy and its binding."""
    rule = {"apiGroups": [GROUP], "apiVersions": [VERSION], "operations": ["CREATE", "UPDATE"], "resources": [PLURAL]}
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [rule]},
        # Who only changes labels or finalizers, as the garbage collector does, borrows nothing.
        "matchConditions": [
            {"name": "the-spec-changes", "expression": "oldObject == null || object.spec != oldObject.spec"}
        ],
        "variables": [
            {"name": "place", "expression": "request.namespace"},
            {"name": "secrets", "expression": secrets_expression()},
            {"name": "unreadable", "expression": f"variables.secrets.filter(secret, !{SECRETS})"},
        ],
        "validations": [
            {
                "expression": DEPLOYMENTS,
                "reason": "Forbidden",
                "messageExpression": "'you may not create Deployments in namespace ' + variables.place "
                "+ ', and a ZImageService creates one for you: ask for a Role with create on deployments.apps'",
            },
            {
                "expression": "variables.unreadable.size() == 0",
                "reason": "Forbidden",
                "messageExpression": "'you may not read Secret ' + variables.unreadable.join(', ') + ' in namespace ' "
                "+ variables.place + ', which this ZImageService names: ask for a Role with get on it'",
            },
        ],
    }
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": NAME}}
    binding = {"policyName": NAME, "validationActions": ["Deny"]}
    return [
        {**head, "kind": "ValidatingAdmissionPolicy", "spec": spec},
        {**head, "kind": "ValidatingAdmissionPolicyBinding", "spec": binding},
    ]
