"""The ZImageService as types: fields, defaults, limits, units, and `parse()`.

The CRD is generated from these types (crd.py), so a limit written here holds at
`kubectl apply`, offline in `zimage-operator check`, and once more before anything is built.
A rule that a schema cannot say is a `Rule` or a `Matches`: one object that carries the CEL
expression for the API server and the Python check, with one message for both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from math import ceil
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

from .errors import DoesNotFit, InvalidSpec
from .memory_plan import GIB, Z_IMAGE, serving
from .names import HTPASSWD, HTTP_PORT, NAME_LENGTH, NAMESPACE_LABEL, TLS
from .quantities import QUANTITY, quantity

LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
SUBDOMAIN = rf"{LABEL}(\.{LABEL})*"
# One path below the volume's root: no leading slash, no `..`, no empty part.
RELATIVE_PATH = r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*"


@dataclass(frozen=True)
class Rule:
    """One rule over a whole object: CEL for the API server, `holds` for Python.

    `field` is the member that the message is about; it becomes CEL's fieldPath.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]
    field: str | None = None

    def document(self) -> dict[str, Any]:
        """Give the entry of `x-kubernetes-validations`."""
        path = {"fieldPath": f".{self.field}"} if self.field else {}
        return {"rule": self.cel, "message": self.message, **path}


@dataclass(frozen=True)
class Matches:
    """A text that matches `pattern` as a whole, or `message` is what the user reads.

    CEL instead of the schema's own `pattern`: that one answers with the bare expression.
    """

    pattern: str
    message: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        quoted = self.pattern.replace("\\", "\\\\")
        rule = {"rule": f"self.matches('^({quoted})$')", "message": self.message}
        return {**handler(schema), "x-kubernetes-validations": [rule]}

    def check(self, value: str) -> str:
        """Give `value` back, or say what to write instead."""
        if not re.fullmatch(self.pattern, value):
            raise ValueError(self.message)
        return value


class Part(BaseModel):
    """A piece of the resource: frozen, camelCase outside, with its rules beside its fields."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)
    rules: ClassVar[tuple[Rule, ...]] = ()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Give the same one: nobody can change it, and pydantic copies every default of every resource."""
        return self

    @model_validator(mode="after")
    def obey(self) -> Self:
        """Check every rule; pydantic puts the path before the message."""
        broken = [rule.message for rule in self.rules if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        document = handler.resolve_ref_schema(handler(schema))
        if cls.rules:
            document["x-kubernetes-validations"] = [rule.document() for rule in cls.rules]
        return document


def named(what: str, example: str, place: str = "in this namespace") -> Matches:
    """Build the check for a name of another object, in the same namespace or of the cluster."""
    return Matches(
        SUBDOMAIN,
        f"write the name of a {what} {place}, such as {example}: lower-case letters, digits, '-' and '.'; "
        "no '/', no '..'",
    )


SECRET = named("Secret", "studio-users")
# Whoever writes one must be allowed to read that Secret: policy.py finds the fields by this type.
SecretName = Annotated[str, Field(max_length=253), SECRET]
ConfigMapName = Annotated[str, Field(max_length=253), named("ConfigMap", "studio-jwks")]
ClaimName = Annotated[str, Field(max_length=253), named("PersistentVolumeClaim", "z-image-turbo")]
VolumePath = Annotated[
    str,
    Field(max_length=256),
    Matches(
        RELATIVE_PATH,
        "write a folder inside the volume, such as models/z-image-turbo: no leading '/', no '..'",
    ),
]
Host = Annotated[
    str,
    Field(max_length=253),
    Matches(
        SUBDOMAIN,
        "write a host name such as img.example.org: lower-case letters, digits, '-' and '.' only; "
        "no scheme, no port, no wildcard, no underscore, no space",
    ),
]
NamespaceName = Annotated[
    str,
    Field(max_length=63),
    Matches(LABEL, "write the name of a namespace, such as dmz: lower-case letters, digits and '-'"),
]
LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
LabelValue = Annotated[
    str,
    Field(max_length=63),
    Matches(LABEL_VALUE, "write a label value: letters, digits, '-', '_' and '.'"),
]

LABEL_KEY = rf"({SUBDOMAIN}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"


@dataclass(frozen=True)
class LabelKeys:
    """A map whose keys are label keys; a schema cannot say anything about keys."""

    MESSAGE: ClassVar[str] = "write label keys such as gpu-type or example.org/gpu-type"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        quoted = LABEL_KEY.replace("\\", "\\\\")
        rule = {
            "rule": f"self.all(key, size(key) <= 317 && key.matches('^({quoted})$'))",
            "message": self.MESSAGE,
        }
        return {**handler(schema), "x-kubernetes-validations": [rule]}

    def check(self, value: dict[str, str]) -> dict[str, str]:
        """Give `value` back, or say what to write instead."""
        if not all(len(key) <= 317 and re.fullmatch(LABEL_KEY, key) for key in value):
            raise ValueError(self.MESSAGE)
        return value


Labels = Annotated[dict[str, LabelValue], LabelKeys()]


@dataclass(frozen=True)
class QuantityText:
    """A Kubernetes quantity, written as text or as a number (`cpu: 2`)."""

    example: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        quoted = QUANTITY.replace("\\", "\\\\")
        rule = f"type(self) == int ? self >= 0 : string(self).matches('^({quoted})$')"
        # The form that the API server demands for IntOrString: no `type` beside it.
        return {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 32,
            "x-kubernetes-validations": [{"rule": rule, "message": self.message}],
        }

    @property
    def message(self) -> str:
        """What to write instead."""
        return f"write a Kubernetes quantity that is not negative, such as {self.example}"

    def check(self, value: object) -> str:
        """Give the quantity as text: what the API server stores is what we compare with."""
        text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
        if not re.fullmatch(QUANTITY, text):
            raise ValueError(self.message)
        return text


Cpu = Annotated[str, QuantityText("2 or 500m")]
Bytes = Annotated[str, QuantityText("8Gi")]


class Image(Part):
    """The worker's container image, where it is not the operator's own default."""

    rules = (
        Rule(
            "!(has(self.tag) && has(self.digest))",
            "write either image.tag or image.digest, not both",
            lambda image: not (image.tag and image.digest),
        ),
        Rule(
            "has(self.tag) || has(self.digest)",
            "write image.digest (sha256:…), or image.tag: an image without either means whatever was pushed last",
            lambda image: bool(image.tag or image.digest),
        ),
    )
    repository: Annotated[
        str,
        Field(max_length=255),
        Matches(
            r"[a-z0-9]+([._:-][a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*",
            "write a repository such as registry.example.org/zimage-worker, without tag or digest",
        ),
    ] = Field(description="Registry and repository, without tag or digest.")
    tag: (
        Annotated[str, Field(max_length=128), Matches(r"[A-Za-z0-9_][A-Za-z0-9._-]*", "write a tag such as 0.1.0")]
        | None
    ) = Field(None, description="Tag; a digest is safer, because a tag can be moved.")
    digest: (
        Annotated[
            str,
            Field(max_length=71),
            Matches(r"sha256:[0-9a-f]{64}", "write a digest: sha256: and 64 hex digits"),
        ]
        | None
    ) = Field(None, description="Digest of the image, sha256:…")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="When the kubelet pulls."
    )
    pull_secrets: tuple[SecretName, ...] = Field(
        (), max_length=8, description="Secrets of type kubernetes.io/dockerconfigjson in this namespace."
    )

    @property
    def reference(self) -> str:
        """The image as a pod names it."""
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"


class ClaimSource(Part):
    """Weights that somebody else placed on a volume; mounted read-only."""

    claim_name: ClaimName = Field(description="A PersistentVolumeClaim in this namespace.")
    path: VolumePath | None = Field(
        None, description="Folder inside the volume that holds model_index.json; its root if unset."
    )


class ImageSource(Part):
    """Weights packed as an OCI image, mounted as an image volume (Kubernetes 1.35 and newer)."""

    reference: Annotated[
        str,
        Field(max_length=512),
        Matches(
            r"[a-z0-9]+([._:-][a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*@sha256:[0-9a-f]{64}",
            "write an image by digest, such as registry.example.org/z-image-turbo@sha256:…",
        ),
    ] = Field(description="The image, by digest.")
    path: VolumePath | None = Field(
        None, description="Folder inside the image that holds model_index.json; its root if unset."
    )


# The forms that fetch takes too (worker/zimage_worker/fetch/command.py; tests/contract compares).
REPO_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
REPO = rf"{REPO_PART}(/{REPO_PART})?"
COMMIT = r"[0-9a-f]{40}"
PORT = r"(6553[0-5]|655[0-2]\d|65[0-4]\d{2}|6[0-4]\d{3}|[1-5]\d{4}|[1-9]\d{0,3})"
HTTPS_PORT = 443


# Where weights come from if nothing else is written.
HUB = "https://huggingface.co"


class HubSource(Part):
    """Weights of one commit of a repository, fetched once by a Job of its own; the workers open no connection."""

    rules = (
        Rule(
            "!has(self.tokenSecretName) || !has(self.endpoint) || self.endpoint.startsWith('https://')",
            "a token would cross the network in the clear: write an endpoint that begins with https://, "
            "or remove tokenSecretName",
            lambda hub: not (hub.token_secret_name and (hub.endpoint or "").startswith("http://")),
        ),
    )
    repo: Annotated[
        str, Field(max_length=193), Matches(REPO, "write a repository such as Tongyi-MAI/Z-Image-Turbo")
    ] = Field(description="Repository of a diffusers pipeline, OWNER/NAME.")
    revision: Annotated[
        str,
        Field(max_length=40),
        Matches(COMMIT, "write a commit, 40 hex digits: a branch or tag may be another model tomorrow"),
    ] = Field(description="The commit. Another one is fetched beside it, and takes over when it is complete.")
    endpoint: (
        Annotated[
            str,
            Field(max_length=512),
            Matches(
                rf"https?://{SUBDOMAIN}(:{PORT})?(/[A-Za-z0-9._~/-]*)?",
                "write an address such as https://hub.example.org: no user, no '?', no '#', no space",
            ),
        ]
        | None
    ) = Field(None, description=f"A mirror, or another server with the Hub's protocol; {HUB} if unset.")
    token_secret_name: SecretName | None = Field(
        None, description="Secret whose key `token` holds the hub's token; only the Job sees it."
    )

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports that the Job has to reach. The endpoint's own, and 443: hubs send large files elsewhere."""
        parts = urlsplit(self.endpoint or "https:")
        own = parts.port or (80 if parts.scheme == "http" else HTTPS_PORT)
        return tuple(sorted({own, HTTPS_PORT}))


class Storage(Part):
    """The volume that the fetched model lies in."""

    # Two revisions of Z-Image in bfloat16, 20.5 GB each, and the largest float32 shard, 10 GB.
    size: Bytes = Field("60Gi", description="Room for two revisions and the largest file that is being rewritten.")
    storage_class_name: (
        Annotated[str, Field(max_length=253), named("StorageClass", "fast", "of this cluster")] | None
    ) = Field(None, description="The cluster's default if unset.")
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = Field(
        "ReadWriteOnce", description="ReadWriteOnce keeps every worker on one node; ReadWriteMany lets them spread."
    )


def kept(member: str, default: str) -> Rule:
    """Build the rule that a member of the storage stays as it was: Kubernetes changes no claim but to a larger one."""
    now, then = (f"{side}.storage.{member}" for side in ("self", "oldSelf"))
    # Member by member: the API server cannot tell how long the result of a condition is, and refuses the rule.
    had = f"has(oldSelf.storage) && has({then})"
    same = f"({had} ? {now} == {then} : {now} == '{default}')"
    absent = f"(!({had}) || {then} == '{default}')"
    return unchanging(f"has(self.storage) && has({now}) ? {same} : {absent}", f"{member} cannot change")


def unchanging(cel: str, advice: str) -> Rule:
    """Build a rule about two states of the storage, which only the API server knows both."""
    return Rule(
        f"!has(self.huggingFace) || !has(oldSelf.huggingFace) || ({cel})",
        f"model.storage.{advice}: write it as it was, or make another ZImageService",
        lambda _: True,
    )


SIZE = "quantity(has({0}.storage) && has({0}.storage.size) ? string({0}.storage.size) : '60Gi')"


class Model(Part):
    """Where the weights come from: exactly one source."""

    rules = (
        Rule(
            "[has(self.huggingFace), has(self.persistentVolumeClaim), has(self.image)].filter(one, one).size() == 1",
            "write exactly one source of the model: model.huggingFace, model.persistentVolumeClaim or model.image",
            lambda model: [model.hugging_face, model.persistent_volume_claim, model.image].count(None) == 2,
        ),
        Rule(
            "!has(self.storage) || has(self.huggingFace)",
            "model.storage is the volume of model.huggingFace: remove it beside another source",
            lambda model: model.storage is None or model.hugging_face is not None,
        ),
        kept("storageClassName", ""),
        kept("accessMode", "ReadWriteOnce"),
        unchanging(f"!{SIZE.format('self')}.isLessThan({SIZE.format('oldSelf')})", "size can grow only"),
    )
    hugging_face: HubSource | None = None
    persistent_volume_claim: ClaimSource | None = None
    image: ImageSource | None = None
    storage: Storage | None = Field(None, description="The volume of model.huggingFace; 60Gi of the default class.")

    @property
    def source(self) -> HubSource | ClaimSource | ImageSource:
        """The one source that is set."""
        source = self.hugging_face or self.persistent_volume_claim or self.image
        assert source, "rules let no model without a source pass"
        return source

    @property
    def one_node(self) -> bool:
        """Whether the volume can be mounted on one node at a time only."""
        return self.hugging_face is not None and (self.storage or Storage()).access_mode == "ReadWriteOnce"


# What a device plugin of the usual vendor offers.
DEFAULT_DEVICE = "nvidia.com/gpu"


class Gpu(Part):
    """The device that one worker owns alone."""

    rules = (
        Rule(
            "!has(self.resourceName) || !has(self.deviceClassName)",
            "write either gpu.resourceName (a device plugin) or gpu.deviceClassName (a DRA driver), not both",
            lambda gpu: gpu.resource_name is None or gpu.device_class_name is None,
        ),
        Rule(
            "!has(self.memory) || !has(self.count) || self.count > 0",
            "gpu.memory is the memory of a GPU: remove it, or write gpu.count: 1",
            lambda gpu: gpu.memory is None or gpu.count > 0,
        ),
    )
    resource_name: (
        Annotated[
            str,
            Field(max_length=253),
            Matches(
                rf"{SUBDOMAIN}/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?",
                "write an extended resource such as nvidia.com/gpu or nvidia.com/mig-3g.40gb",
            ),
        ]
        | None
    ) = Field(None, description=f"The extended resource of a device plugin, MIG names too; {DEFAULT_DEVICE} if unset.")
    device_class_name: (
        Annotated[str, Field(max_length=253), named("DeviceClass", "gpu.nvidia.com", "of this cluster")] | None
    ) = Field(None, description="A DeviceClass of a DRA driver, in place of resourceName (Kubernetes 1.34 and newer).")
    count: Annotated[int, Field(ge=0, le=16)] = Field(
        1, description="Devices per worker; 0 means CPU, for development."
    )
    memory: Bytes | None = Field(
        None,
        description="Memory of the device, such as 24Gi: the worker plans with no more, and a generation.maxPixels "
        "that does not fit is refused. Unset: the worker asks the device, and serves what fits.",
    )

    @property
    def claimed(self) -> bool:
        """Whether the devices come from a DRA driver."""
        return self.count > 0 and self.device_class_name is not None

    @property
    def extended_resource(self) -> str:
        """The device plugin's resource; empty where the devices come from elsewhere, or there are none."""
        return "" if self.claimed or not self.count else self.resource_name or DEFAULT_DEVICE


# safetensors are memory-mapped and copied straight to the GPU: host memory stays at
# interpreter + CUDA context + one image in flight. The figures are a guess with room; measure them.
class Requests(Part):
    """What the scheduler sets aside for one worker."""

    cpu: Cpu = Field("2", description="Cores, such as 2 or 500m: encoding pictures, checking passwords.")
    memory: Bytes = Field("8Gi", description="Host memory; the weights pass through it on their way to the GPU.")
    ephemeral_storage: Bytes = Field("1Gi", description="Room on the node's disk, for temporary files and logs.")


class Limits(Part):
    """What one worker may use at most. No default for the CPU: throttling makes requests late, not safe."""

    cpu: Cpu | None = Field(None, description="Cores; unlimited if unset: throttling makes requests late, not safe.")
    memory: Bytes = Field("16Gi", description="Host memory; a worker that takes more is ended (OOMKilled).")
    ephemeral_storage: Bytes = Field("8Gi", description="Room on the node's disk; a worker that takes more is evicted.")


def amounts(part: Requests | Limits) -> dict[str, str]:
    """Give the amounts under the names that Kubernetes uses."""
    named_amounts = {"cpu": part.cpu, "memory": part.memory, "ephemeral-storage": part.ephemeral_storage}
    return {name: amount for name, amount in named_amounts.items() if amount is not None}


def within(field: str) -> Rule:
    """Build the rule that a request does not pass its limit, which the API server refuses on the pod only."""
    member = {"ephemeral_storage": "ephemeralStorage"}.get(field, field)

    def holds(resources: Resources) -> bool:
        limit = getattr(resources.limits, field)
        return limit is None or quantity(getattr(resources.requests, field)) <= quantity(limit)

    sides = ("requests", "limits")
    # The API server checks the CRD's own defaults before it fills the members in: hence the guards.
    absent = " || ".join(f"!has(self.{side}) || !has(self.{side}.{member})" for side in sides)
    request, limit = (f"quantity(string(self.{side}.{member}))" for side in sides)
    cel = f"{absent} || !{request}.isGreaterThan({limit})"
    return Rule(cel, f"resources.requests.{member} is larger than resources.limits.{member}: raise the limit", holds)


class Resources(Part):
    """Requests and limits of one worker, beside its GPU."""

    rules = (within("cpu"), within("memory"), within("ephemeral_storage"))
    requests: Requests = Field(Requests(), description="What the scheduler sets aside for one worker.")
    limits: Limits = Field(Limits(), description="What one worker may use at most.")


class Toleration(Part):
    """A taint that the worker may run beside."""

    # What the API server says of a pod, said at once: a Deployment would be refused much later.
    rules = (
        Rule(
            "has(self.key) || self.operator == 'Exists'",
            "a toleration without a key matches every taint: write operator: Exists, or a key",
            lambda part: part.key is not None or part.operator == "Exists",
        ),
        Rule(
            "self.operator != 'Exists' || !has(self.value)",
            "operator Exists matches every value: remove value, or write operator: Equal",
            lambda part: part.operator != "Exists" or part.value is None,
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds means something with effect: NoExecute only",
            lambda part: part.toleration_seconds is None or part.effect == "NoExecute",
        ),
    )
    key: (
        Annotated[
            str, Field(max_length=317), Matches(LABEL_KEY, "write the key of a taint, such as example.org/gpu-only")
        ]
        | None
    ) = Field(None, description="The taint's key; every key if unset, with operator Exists.")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="Exists: whatever the taint's value is.")
    value: LabelValue | None = Field(None, description="The taint's value, with operator Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="What the taint does; every effect if unset."
    )
    toleration_seconds: Annotated[int, Field(ge=0, le=86400)] | None = Field(
        None, description="Seconds that a NoExecute taint is borne; for ever if unset."
    )


class TopologySpread(Part):
    """One rule of how the workers are spread over the cluster."""

    topology_key: Annotated[
        str, Field(max_length=317), Matches(LABEL_KEY, "write a label of nodes, such as topology.kubernetes.io/zone")
    ] = Field("kubernetes.io/hostname", description="The label of nodes that says where a place ends.")
    max_skew: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="By how many workers one place may be ahead of another."
    )
    when_unsatisfiable: Literal["ScheduleAnyway", "DoNotSchedule"] = Field(
        "ScheduleAnyway", description="DoNotSchedule: a worker that would break the rule waits."
    )


class Scheduling(Part):
    """Where the workers may run."""

    rules = (
        Rule(
            "!has(self.priorityClassName) || !self.priorityClassName.startsWith('system-')",
            "write a priority class of your own: those that begin with system- belong to the cluster",
            lambda part: not (part.priority_class_name or "").startswith("system-"),
        ),
    )
    node_selector: Labels = Field({}, max_length=16, description="Labels that a node must have.")
    tolerations: tuple[Toleration, ...] = Field((), max_length=16)
    priority_class_name: (
        Annotated[str, Field(max_length=253), named("PriorityClass", "gpu-serving", "of this cluster")] | None
    ) = Field(None, description="Whom a worker may push from its GPU, and by whom it may be pushed.")
    runtime_class_name: (
        Annotated[str, Field(max_length=253), named("RuntimeClass", "nvidia", "of this cluster")] | None
    ) = Field(None, description="The container runtime; the node's own if unset. Some GPU drivers ask for nvidia.")
    topology_spread: tuple[TopologySpread, ...] = Field(
        (TopologySpread(),), max_length=4, description="How workers are spread; by default over hosts, if it can be."
    )


class Autoscaling(Part):
    """How many workers run, decided by a HorizontalPodAutoscaler from the length of their queues."""

    rules = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "autoscaling.minReplicas is larger than autoscaling.maxReplicas: raise the maximum",
            lambda part: part.min_replicas <= part.max_replicas,
        ),
    )
    min_replicas: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="Fewest workers; none at all is spec.suspend."
    )
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = Field(description="Most workers; each owns its GPU alone.")
    target_queue_depth: Annotated[int, Field(ge=1, le=1000)] = Field(
        4, description="Requests per worker, running and waiting, that are held to be right on average."
    )


class Rollout(Part):
    """How a new worker replaces the old one."""

    strategy: Literal["Recreate", "RollingUpdate"] = Field(
        "Recreate", description="RollingUpdate needs a spare GPU and waits for ever where there is none."
    )
    drain_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        120, description="Seconds that running and waiting requests get when a worker is told to stop."
    )
    progress_deadline_seconds: Annotated[int, Field(ge=60, le=86400)] = Field(
        1800, description="Seconds after which a rollout without progress counts as failed."
    )


# 256x256.
MIN_PIXELS = 65536


class Generation(Part):
    """Limits that the worker enforces on every request."""

    # 1024×1024: the size that Z-Image is trained for and that a 24 GB card holds untiled.
    max_pixels: Annotated[int, Field(ge=MIN_PIXELS, le=16777216)] = Field(
        1048576, description="Largest width × height, pixels."
    )
    max_steps: Annotated[int, Field(ge=1, le=200)] = Field(50, description="Largest number of denoising steps.")
    max_images: Annotated[int, Field(ge=1, le=10)] = Field(4, description="Largest n of one request.")
    queue_length: Annotated[int, Field(ge=1, le=1000)] = Field(16, description="Requests that may wait; more get 429.")
    request_timeout_seconds: Annotated[int, Field(ge=10, le=3600)] = Field(
        300, description="Longest life of a request."
    )


@dataclass(frozen=True)
class NotEmpty:
    """A list with at least one entry, refused with a sentence instead of `should have at least 1 items`."""

    advice: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "x-kubernetes-validations": [Rule("size(self) > 0", self.advice, bool).document()]}

    def check(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give `value` back, or say what to write instead."""
        if not value:
            raise ValueError(self.advice)
        return value


# Who is let in where nothing is written.
CLIENTS = ("dmz",)


class Network(Part):
    """Who may open a connection to the workers."""

    rules = (
        # Not `!has(self.allowedNamespaces)`: it has a default, and is always there.
        Rule(
            "!has(self.allowedNamespaceLabels) || !has(self.allowedNamespaces) || self.allowedNamespaces == ['dmz']",
            "write either network.allowedNamespaces (names, which nobody can forge) or network.allowedNamespaceLabels",
            lambda part: not part.allowed_namespace_labels or part.allowed_namespaces == CLIENTS,
        ),
        Rule(
            "!has(self.allowedNamespaceLabels) || size(self.allowedNamespaceLabels) > 0",
            "write at least one label in network.allowedNamespaceLabels: with none, every namespace would be let in",
            lambda part: part.allowed_namespace_labels != {},
        ),
        Rule(
            f"!has(self.allowedNamespaceLabels) || !('{NAMESPACE_LABEL}' in self.allowedNamespaceLabels)",
            f"write the name into network.allowedNamespaces: {NAMESPACE_LABEL} is how that one selects",
            lambda part: NAMESPACE_LABEL not in (part.allowed_namespace_labels or {}),
        ),
    )
    allowed_namespaces: Annotated[
        tuple[NamespaceName, ...],
        Field(max_length=32),
        NotEmpty("list at least one namespace: with none, nobody could reach the service"),
    ] = Field(
        CLIENTS,
        description=f"Namespaces whose pods may reach port {HTTP_PORT}, by a label that nobody can forge.",
    )
    allowed_namespace_labels: Annotated[dict[str, LabelValue], Field(max_length=8), LabelKeys()] | None = Field(
        None,
        description="Labels that a namespace must carry, all of them, in place of allowedNamespaces. Weaker: whoever "
        "may label a namespace lets himself in.",
    )
    proxy_pod_labels: Labels = Field(
        {}, max_length=8, description="Narrows the peers to pods with these labels in those namespaces."
    )
    metrics_namespaces: tuple[NamespaceName, ...] = Field(
        ("monitoring",),
        max_length=32,
        description="Namespaces whose pods may scrape the metrics port, and nothing else.",
    )
    enforcement: Literal["Report", "Required"] = Field(
        "Report", description="Required: no route before the probe has shown that the policy really blocks."
    )

    @property
    def client_namespaces(self) -> tuple[str, ...]:
        """The namespaces that are let in by their names; none where labels decide."""
        return () if self.allowed_namespace_labels else self.allowed_namespaces


class Monitoring(Part):
    """How the workers' metrics get into a Prometheus that the Prometheus operator runs."""

    pod_monitor: bool | None = Field(
        None,
        description="Whether there is a PodMonitor. Unset: where the cluster knows PodMonitors, unless the operator's "
        "settings say no (ZIMAGE_OPERATOR_POD_MONITORS).",
    )


class Basic(Part):
    """HTTP Basic authentication: a htpasswd file of yours, or one user whose password the operator makes up."""

    rules = (
        Rule(
            "has(self.secretName) != (has(self.generate) && self.generate)",
            "write either auth.basic.secretName (a Secret with htpasswd lines in its key `auth`) "
            "or auth.basic.generate: true",
            lambda basic: (basic.secret_name is not None) != basic.generate,
        ),
    )
    secret_name: SecretName | None = Field(
        None, description="Secret whose key `auth` holds htpasswd lines (bcrypt or argon2)."
    )
    generate: bool = Field(
        False,
        description="The operator makes up a user and a password, once: Secrets NAME-basic-auth (htpasswd) and "
        "NAME-credentials (the password). Delete either of them to have new ones.",
    )


# Printable ASCII without blanks and commas: the worker reads lists with commas between.
WORD = r"[!-+\--~]"
CLAIM = r"[!-+\--<>-~]{1,128}"


class Jwks(Part):
    """Where the issuer's public keys come from: exactly one source."""

    rules = (
        Rule(
            "[has(self.secretName), has(self.configMapName), has(self.url)].filter(one, one).size() == 1",
            "write exactly one source of the keys: auth.jwt.jwks.secretName, configMapName or url",
            lambda jwks: [jwks.secret_name, jwks.config_map_name, jwks.url].count(None) == 2,
        ),
    )
    secret_name: SecretName | None = Field(None, description="Secret whose key `jwks.json` holds the JSON key set.")
    config_map_name: ConfigMapName | None = Field(
        None, description="ConfigMap whose key `jwks.json` holds the JSON key set."
    )
    url: (
        Annotated[
            str,
            Field(max_length=512),
            Matches(
                rf'https://{SUBDOMAIN}(:{PORT})?(/[!"$-~]*)?',
                "write an address such as https://login.example.org/keys: https, no user, no '#', no space",
            ),
        ]
        | None
    ) = Field(
        None,
        description="Fetched by the workers, which may then open connections to DNS and to this port; only where the "
        "operator's administrator allows it (ZIMAGE_OPERATOR_ALLOW_JWKS_URL).",
    )

    @property
    def port(self) -> int | None:
        """The TCP port that the workers have to reach; None where they have to reach nothing."""
        return (urlsplit(self.url).port or HTTPS_PORT) if self.url else None


Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]  # fmt: skip


class Jwt(Part):
    """Bearer tokens of an issuer that you run: OpenID Connect or anything else that signs JWTs."""

    rules = (
        Rule(
            "!has(self.algorithms) || self.algorithms.all(a, a.startsWith('HS')) "
            "|| !self.algorithms.exists(a, a.startsWith('HS'))",
            "write either public-key algorithms or HS ones, never both: a public key would count as a shared secret",
            lambda jwt: len({name.startswith("HS") for name in jwt.algorithms}) <= 1,
        ),
        Rule(
            "!has(self.algorithms) || !self.algorithms.exists(a, a.startsWith('HS')) || has(self.jwks.secretName)",
            "HS algorithms verify with the key that signs: keep it in a Secret (auth.jwt.jwks.secretName)",
            lambda jwt: not any(name.startswith("HS") for name in jwt.algorithms) or jwt.jwks.secret_name is not None,
        ),
    )
    issuer: Annotated[
        str,
        Field(max_length=512),
        Matches(r"[!-~]{1,512}", "write the exact text of the tokens' iss, such as https://login.example.org"),
    ] = Field(description="What the tokens' `iss` must be, letter by letter.")
    audiences: Annotated[
        tuple[
            Annotated[
                str,
                Field(max_length=256),
                Matches(rf"{WORD}{{1,256}}", "write an audience without blanks and commas, such as zimage"),
            ],
            ...,
        ],
        Field(max_length=16),
        NotEmpty("list at least one audience: without one, a token for any other service would be taken here"),
    ] = Field(description="One of these must stand in the tokens' `aud`.")
    algorithms: tuple[Algorithm, ...] = Field(
        (), max_length=13, description="What may sign; RS256, ES256 and EdDSA when empty. A token never chooses."
    )
    jwks: Jwks = Field(description="The issuer's public keys.")
    required_claims: tuple[
        Annotated[
            str,
            Field(max_length=400),
            Matches(rf"{CLAIM}(={WORD}{{1,256}})?", "write name or name=value, without blanks and commas"),
        ],
        ...,
    ] = Field((), max_length=16, description="Claims that a token must have: name, or name=value.")
    username_claim: Annotated[
        str, Field(max_length=128), Matches(CLAIM, "write the name of a claim, such as sub or email")
    ] = Field("sub", description="The claim that names the caller, for limits and the access log.")


class Token(Part):
    """The worker's own POST /token: a Basic user gets a short-lived token."""

    rules = (
        Rule(
            "!(has(self.enabled) && self.enabled) || has(self.signingKeySecretName)",
            "write auth.token.signingKeySecretName: a Secret whose key `key` holds openssl rand -base64 48",
            lambda token: not token.enabled or token.signing_key_secret_name is not None,
        ),
    )
    enabled: bool = Field(False, description="Whether POST /token is served.")
    ttl_seconds: Annotated[int, Field(ge=60, le=86400)] = Field(
        900, description="Life of a token; a longer one is a password that its owner cannot take back."
    )
    signing_key_secret_name: SecretName | None = Field(
        None, description="Secret whose key `key` holds 1 to 4 random lines of 32 bytes or more; the first signs."
    )


AuthMode = Literal["Basic", "JWT", "Any", "None"]
# POST /token is on.
MINTS = "has(self.token) && has(self.token.enabled) && self.token.enabled"


def mode_rule(mode: AuthMode, cel: str, message: str, holds: Callable[[Auth], bool]) -> Rule:
    """Build a rule for services that write this mode."""
    return Rule(
        f"!has(self.mode) || self.mode != '{mode}' || ({cel})",
        message,
        lambda auth: auth.mode != mode or holds(auth),
    )


class Auth(Part):
    """Who may use the service. There is no default: an open service has to be written down."""

    rules = (
        Rule(
            "has(self.mode) && self.mode == 'None' || has(self.basic) || has(self.jwt)",
            "write auth.basic.secretName (a Secret with htpasswd lines in its key `auth`), auth.basic.generate: true, "
            "or auth.jwt; or auth.mode: None together with auth.waiverReason",
            lambda auth: auth.mode == "None" or auth.basic is not None or auth.jwt is not None,
        ),
        mode_rule(
            "None",
            "has(self.waiverReason)",
            "auth.mode None opens the service to everybody: say why in auth.waiverReason (20 to 500 characters)",
            lambda auth: auth.waiver_reason is not None,
        ),
        mode_rule(
            "None",
            f"!has(self.basic) && !has(self.jwt) && !({MINTS})",
            "auth.mode None contradicts auth.basic, auth.jwt and auth.token: remove one side",
            lambda auth: auth.basic is None and auth.jwt is None and not auth.tokens,
        ),
        mode_rule(
            "Basic",
            "has(self.basic) && !has(self.jwt)",
            "auth.mode Basic needs auth.basic and no auth.jwt: write auth.basic.secretName, or auth.mode: Any for both",
            lambda auth: auth.basic is not None and auth.jwt is None,
        ),
        mode_rule(
            "JWT",
            f"(has(self.jwt) && !has(self.basic)) || ({MINTS})",
            "auth.mode JWT needs auth.jwt and no auth.basic (auth.token.enabled allows it, for POST /token alone): "
            "write auth.mode: Any for both",
            lambda auth: (auth.jwt is not None and auth.basic is None) or auth.tokens,
        ),
        mode_rule(
            "Any",
            f"has(self.basic) && (has(self.jwt) || ({MINTS}))",
            "auth.mode Any needs auth.basic, and auth.jwt or auth.token.enabled",
            lambda auth: auth.basic is not None and (auth.jwt is not None or auth.tokens),
        ),
        Rule(
            f"!({MINTS}) || has(self.basic)",
            "auth.token gives tokens to Basic users: write auth.basic too",
            lambda auth: not auth.tokens or auth.basic is not None,
        ),
    )
    mode: AuthMode | None = Field(
        None,
        description="Read from what is configured: Basic, JWT, or Any for both. None switches authentication off and "
        "needs waiverReason; JWT with basic and token takes passwords at POST /token alone.",
    )
    basic: Basic | None = None
    jwt: Jwt | None = None
    token: Token | None = None
    waiver_reason: Annotated[str, Field(min_length=20, max_length=500)] | None = Field(
        None, description="Why this service may be open; shown in the status."
    )

    @property
    def tokens(self) -> bool:
        """Whether POST /token is served."""
        return self.token is not None and self.token.enabled

    @property
    def in_force(self) -> AuthMode:
        """The mode that is written, or else the one that what is configured says."""
        if self.mode:
            return self.mode
        return "Basic" if self.jwt is None else "Any" if self.basic else "JWT"


class IssuerRef(Part):
    """Who signs: an Issuer of this namespace or a ClusterIssuer."""

    name: Annotated[str, Field(max_length=253), named("cert-manager Issuer", "letsencrypt", "or ClusterIssuer")] = (
        Field(description="The issuer's name.")
    )
    kind: Literal["Issuer", "ClusterIssuer"] = Field("Issuer", description="ClusterIssuer: one for all namespaces.")
    group: Annotated[
        str, Field(max_length=253), Matches(SUBDOMAIN, "write the API group of the issuer, such as cert-manager.io")
    ] = Field("cert-manager.io", description="Another group means an issuer that is not cert-manager's own.")


class Tls(Part):
    """The certificate of the published host: a Secret of yours, or one that cert-manager fills."""

    rules = (
        Rule(
            "has(self.secretName) != has(self.issuerRef)",
            "write either ingress.tls.secretName (a Secret of type kubernetes.io/tls) or ingress.tls.issuerRef "
            "(cert-manager fills Secret NAME-tls), not both",
            lambda tls: (tls.secret_name is None) != (tls.issuer_ref is None),
        ),
    )
    secret_name: SecretName | None = Field(
        None, description="Secret of type kubernetes.io/tls; the worker sees tls.crt only, never the key."
    )
    issuer_ref: IssuerRef | None = Field(None, description="cert-manager fills Secret NAME-tls from this issuer.")


class RateLimit(Part):
    """Requests per client address, at the edge and again in the worker."""

    requests_per_minute: Annotated[int, Field(ge=1, le=100000)] = Field(
        60, description="In the long run, from one client address; the next one is told 429."
    )
    burst: Annotated[int, Field(ge=1, le=10000)] = Field(20, description="So many may come at once.")


@dataclass(frozen=True)
class CidrText:
    """An address range; CEL's own `isCIDR` on the API server, `ipaddress` here."""

    MESSAGE: ClassVar[str] = "write an address range such as 10.0.0.0/8 or 2001:db8::/32, with no host bits set"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        rule = {"rule": "isCIDR(self) && cidr(self) == cidr(self).masked()", "message": self.MESSAGE}
        return {**handler(schema), "x-kubernetes-validations": [rule]}

    def check(self, value: str) -> str:
        """Give `value` back, or say what to write instead."""
        try:
            ip_network(value)
        except ValueError as error:
            raise ValueError(self.MESSAGE) from error
        if "/" not in value:
            raise ValueError(self.MESSAGE)
        return value


Cidr = Annotated[str, Field(max_length=43), CidrText()]


# Below it a worker's own limit for a request without files would never be met; above the second no worker takes more.
BODY_LEAST, BODY_MOST = "64Ki", "24Mi"


class Published(Part):
    """What holds for everybody who comes through the edge, whichever it is."""

    enabled: bool = Field(
        True, description="False: no route and no claim to the host; the rest stays, and no worker restarts."
    )
    host: Host = Field(description="The public DNS name.")
    allowed_source_ranges: tuple[Cidr, ...] = Field(
        (), max_length=64, description="Address ranges that the edge admits; all when empty."
    )
    rate_limit: RateLimit = Field(RateLimit())
    max_body_size: Bytes = Field(
        "4Mi",
        description=f"Largest body of a request, {BODY_LEAST} to {BODY_MOST}: at the edge if it can, and in workers.",
    )
    read_timeout_seconds: Annotated[int, Field(ge=10, le=3600)] = Field(
        600, description="Seconds that the edge waits for the worker's next byte; no less than a generation may take."
    )


BODY_RULE = Rule(
    f"!has(self.maxBodySize) || (quantity(string(self.maxBodySize)).compareTo(quantity('{BODY_LEAST}')) >= 0 && "
    f"quantity(string(self.maxBodySize)).compareTo(quantity('{BODY_MOST}')) <= 0)",
    f"write a maxBodySize from {BODY_LEAST} to {BODY_MOST}: workers take no larger body, and prompts need the smaller",
    lambda part: quantity(BODY_LEAST) <= quantity(part.max_body_size) <= quantity(BODY_MOST),
)


class Ingress(Published):
    """The service is published by an Ingress."""

    rules = (
        Rule(
            "has(self.tls)",
            "a published host needs TLS, or passwords would cross the network in the clear: "
            "write ingress.tls.secretName or ingress.tls.issuerRef",
            lambda ingress: ingress.tls is not None,
        ),
        Rule(
            "has(self.className)",
            "write ingress.className: the name of an IngressClass of this cluster (kubectl get ingressclasses)",
            lambda ingress: ingress.class_name is not None,
        ),
        BODY_RULE,
    )
    class_name: Annotated[str, Field(max_length=253), named("IngressClass", "traefik")] | None = Field(
        None, description="The IngressClass; its controller decides the dialect."
    )
    tls: Tls | None = None


class ParentRef(Part):
    """The Gateway, and the one listener of it that ends TLS."""

    name: Annotated[str, Field(max_length=253), named("Gateway", "edge", "in parentRef.namespace")] = Field(
        description="The Gateway's name."
    )
    namespace: NamespaceName | None = Field(None, description="The Gateway's namespace; this one if unset.")
    section_name: Annotated[str, Field(max_length=253), named("listener", "https", "of the Gateway")] | None = Field(
        None, description="The HTTPS listener."
    )


class Gateway(Published):
    """The service is published by a route of the Gateway API, in place of an Ingress."""

    rules = (
        Rule(
            "has(self.parentRef.sectionName)",
            "write gateway.parentRef.sectionName: the HTTPS listener; without it the route would also be served in the "
            "clear",
            lambda gateway: gateway.parent_ref.section_name is not None,
        ),
        BODY_RULE,
    )
    parent_ref: ParentRef = Field(description="The Gateway and its HTTPS listener; its class decides the policies.")


def required(field: str, message: str) -> Rule:
    """Demand a member by CEL, which can say what to write; the schema's `required` cannot."""
    return Rule(f"has(self.{field})", message, lambda part: getattr(part, field) is not None, field)


def outlasts(way: str) -> Rule:
    """Demand that the edge waits as long as a worker may take: otherwise it cuts off what is still computed."""

    def holds(spec: Spec) -> bool:
        part = getattr(spec, way)
        return part is None or part.read_timeout_seconds >= spec.generation.request_timeout_seconds

    given = f"has(self.{way}) && has(self.{way}.readTimeoutSeconds)"
    taken = "has(self.generation) && has(self.generation.requestTimeoutSeconds)"
    return Rule(
        f"!({given} && {taken}) || self.{way}.readTimeoutSeconds >= self.generation.requestTimeoutSeconds",
        f"{way}.readTimeoutSeconds is shorter than generation.requestTimeoutSeconds: the edge would cut off what a "
        "worker still computes; raise the one or lower the other",
        holds,
    )


class Spec(Part):
    """What the user wants."""

    rules = (
        required("model", "write spec.model: where the weights lie, such as model.huggingFace.repo and revision"),
        required(
            "auth",
            "write spec.auth: who may use the service, such as auth.basic.secretName; "
            "an open service needs auth.mode: None and auth.waiverReason",
        ),
        # Not `!has(self.replicas)`: the field has a default, which `kubectl scale` needs
        # (docs/decisions/0210-replicas-and-autoscaling.md).
        Rule(
            "!has(self.autoscaling) || !has(self.replicas) || self.replicas == 1",
            "autoscaling decides how many workers run: remove spec.replicas (or write 1, its default), "
            "set autoscaling.minReplicas instead; to stop every worker write suspend: true",
            lambda spec: spec.autoscaling is None or spec.replicas == 1,
        ),
        Rule(
            "!(has(self.ingress) && has(self.gateway))",
            "write either spec.ingress or spec.gateway: one host has one way in",
            lambda spec: spec.ingress is None or spec.gateway is None,
        ),
        outlasts("ingress"),
        outlasts("gateway"),
    )
    suspend: bool = Field(
        False, description="True: no workers and no route; everything else stays, and comes back with false."
    )
    image: Image | None = Field(None, description="The worker's image; the operator's own default if unset.")
    model: Model | None = Field(None, description="Where the weights come from.")
    replicas: Annotated[int, Field(ge=0, le=1000)] = Field(1, description="Workers; each owns its GPU alone.")
    autoscaling: Autoscaling | None = Field(
        None, description="An autoscaler decides how many workers run; in place of replicas."
    )
    gpu: Gpu = Field(Gpu())
    resources: Resources = Field(Resources())
    scheduling: Scheduling = Field(Scheduling())
    rollout: Rollout = Field(Rollout())
    generation: Generation = Field(Generation())
    network: Network = Field(Network())
    monitoring: Monitoring = Field(Monitoring())
    auth: Auth | None = Field(None, description="Who may use the service.")
    ingress: Ingress | None = Field(None, description="How the service is published; unset: inside the cluster only.")
    gateway: Gateway | None = Field(None, description="How the service is published, in place of ingress.")

    @property
    def published(self) -> Ingress | Gateway | None:
        """How the service is published, or is to be again; None: inside the cluster only."""
        return self.ingress or self.gateway

    @property
    def routed(self) -> Ingress | Gateway | None:
        """How the service is published now; None: inside the cluster only, or `enabled: false`."""
        return self.published if self.published and self.published.enabled else None

    @property
    def stopped(self) -> bool:
        """Whether no worker is to run."""
        return self.suspend or (self.autoscaling is None and self.replicas == 0)


@dataclass(frozen=True)
class ZImageService:
    """A resource whose spec is known to be sound. `uid` and `generation` are the API server's."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: Spec

    @property
    def model(self) -> Model:
        """The model; parse() lets no resource without one pass."""
        assert self.spec.model
        return self.spec.model

    @property
    def auth(self) -> Auth:
        """The authentication; parse() lets no resource without one pass."""
        assert self.spec.auth
        return self.spec.auth

    @property
    def generated(self) -> bool:
        """Whether the operator makes up the credentials."""
        return self.auth.basic is not None and self.auth.basic.generate

    @property
    def tls_secret(self) -> str:
        """The Secret with the host's certificate; empty where the edge has it from elsewhere."""
        tls = self.spec.ingress.tls if self.spec.ingress else None
        return (tls.secret_name or f"{self.name}-{TLS}") if tls else ""

    @property
    def basic_secret(self) -> str:
        """The Secret with the htpasswd file; empty where there is none."""
        basic = self.auth.basic
        return (basic.secret_name or f"{self.name}-{HTPASSWD}") if basic else ""


def parse(body: Mapping[str, Any], *, strict: bool = False) -> ZImageService:
    """Turn a raw resource into types.

    `strict` refuses unknown fields (for manifests on disk); without it they are ignored,
    because an operator that was rolled back meets the fields of its successor.

    Raises:
        InvalidSpec: one line per mistake: the field, and what to write instead.
        DoesNotFit: the memory plan has no place for the largest picture; with the largest that fits.
    """
    metadata = body.get("metadata") or {}
    name = str(metadata.get("name") or "")
    if len(name) > NAME_LENGTH:
        raise InvalidSpec(f"metadata.name: {NAME_MESSAGE}")
    try:
        spec = Spec.model_validate(body.get("spec") or {}, extra="forbid" if strict else "ignore")
    except ValidationError as error:
        raise InvalidSpec("\n".join(explain(error))) from error
    if problem := too_large(spec):
        raise DoesNotFit(problem)
    return ZImageService(
        namespace=str(metadata.get("namespace") or "default"),
        name=name,
        uid=str(metadata.get("uid") or ""),
        generation=int(metadata.get("generation") or 0),
        spec=spec,
    )


def too_large(spec: Spec) -> str:
    """Say that the largest picture does not fit the GPU's memory, and what does; empty where all is well.

    By the closed form that the worker plans with (memory_plan.py), for the weights of Z-Image. CEL cannot
    compute it: such a resource is stored, and Stalled.
    """
    if not spec.gpu.count or spec.gpu.memory is None:
        return ""
    asked, memory = spec.generation.max_pixels, int(quantity(spec.gpu.memory))
    found = serving(Z_IMAGE, memory, asked)
    if found.chosen:
        return ""
    if found.largest_pixels_of_any:
        text = f"pictures of {asked} pixels do not fit gpu.memory {spec.gpu.memory}"
        return f"spec.generation.maxPixels: {text}: write at most {found.largest_pixels_of_any}, or more memory"
    least = min(need.needed_bytes for need in serving(Z_IMAGE, memory, MIN_PIXELS).needs) / GIB
    return f"spec.gpu.memory: {spec.gpu.memory} hold not even the smallest picture: write at least {ceil(least)}Gi"


NAME_MESSAGE = f"write a name of at most {NAME_LENGTH} characters: the names of the child objects are built from it"


def explain(error: ValidationError) -> list[str]:
    """Give one line per mistake: `spec.path: what to write`; never the value, it may be a secret."""
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        path = ".".join(["spec", *(str(part) for part in item["loc"])])
        if item["type"] == "extra_forbidden":
            lines.append(f"{path}: there is no such field; see kubectl explain zimageservice.spec")
        else:
            lines.append(f"{path}: {item['msg'].removeprefix('Value error, ')}")
    return lines
