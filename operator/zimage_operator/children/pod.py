"""The worker's pod: restricted, read-only, without a token, with nothing mounted that it does not need."""

from __future__ import annotations

from ..manifest import Environment, Manifest
from ..names import (
    BASIC_KEY,
    BASIC_MOUNT,
    CERTIFICATE_KEY,
    CERTIFICATE_MOUNT,
    HTTP_PORT,
    HTTP_PORT_NAME,
    JWKS_KEY,
    JWKS_MOUNT,
    LABEL_COMPONENT,
    MANAGEMENT_PORT,
    MANAGEMENT_PORT_NAME,
    MODEL_CLAIM,
    MODEL_MOUNT,
    SIGNING_KEY,
    SIGNING_MOUNT,
    WORKER_UID,
    selector_labels,
)
from ..spec import Auth, ClaimSource, HubSource, TopologySpread, ZImageService, amounts
from .claimtemplate import CLAIM, claim_template_name

# After the worker's own drain: closing sockets and freeing the GPU. A guess with room.
EXIT_SECONDS = 15
# A worker that makes room for its successor serves on for so long after it was told to go: proxies hear a second or two
# later that it left the Service, and until then send it requests. A guess with room.
LEAVE_SECONDS = 5
# Owner and group may read, others not: the files hold password hashes.
CREDENTIAL_MODE = 0o440
HOSTNAME_LABEL = "kubernetes.io/hostname"
UNPRIVILEGED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}
# Where each volume is mounted.
PATHS = {
    "model": MODEL_MOUNT,
    "tmp": "/tmp",  # noqa: S108
    "basic": BASIC_MOUNT,
    "jwks": JWKS_MOUNT,
    "token": SIGNING_MOUNT,
    "certificate": CERTIFICATE_MOUNT,
}


def pod(service: ZImageService, environment: Environment) -> Manifest:
    """Build the pod's spec; it passes PodSecurity `restricted` as the API server enforces it."""
    spec = service.spec
    grace_seconds = spec.rollout.drain_seconds + EXIT_SECONDS + (LEAVE_SECONDS if rolls(service) else 0)
    body = skeleton(service, container(service, environment), volumes(service), grace_seconds)
    optional = {
        "topologySpreadConstraints": [spread(service, wanted) for wanted in spec.scheduling.topology_spread],
        "resourceClaims": claims(service),
        "runtimeClassName": spec.scheduling.runtime_class_name,
    }
    given = {key: value for key, value in optional.items() if value}
    return body | given | placement(service) | one_node(service)


def skeleton(service: ZImageService, only: Manifest, mounted: list[Manifest], grace_seconds: int) -> Manifest:
    """Build what every pod of ours is: restricted, without rights, and tolerated where the GPUs are."""
    return {
        "serviceAccountName": service.name,
        "automountServiceAccountToken": False,
        # Dozens of variables about other services would only tell an intruder where to go.
        "enableServiceLinks": False,
        # The defaults, and sent all the same: what we do not send we would not put back, and
        # a pod in the host's network is under no NetworkPolicy.
        "hostNetwork": False,
        "hostPID": False,
        "hostIPC": False,
        "terminationGracePeriodSeconds": grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": WORKER_UID,
            "runAsGroup": WORKER_UID,
            "fsGroup": WORKER_UID,
            # Without this the kubelet walks 20 GB of weights on every start to change their group.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [only],
        "volumes": mounted,
        "tolerations": tolerations(service),
    }


def placement(service: ZImageService) -> Manifest:
    """Build what decides where a pod may run, and its right to an image: the same for workers and downloads."""
    spec = service.spec
    optional = {
        "nodeSelector": spec.scheduling.node_selector,
        "priorityClassName": spec.scheduling.priority_class_name,
        "imagePullSecrets": [{"name": name} for name in spec.image.pull_secrets] if spec.image else [],
    }
    return {key: value for key, value in optional.items() if value}


def one_node(service: ZImageService) -> Manifest:
    """Build the rule that all pods of a service share a node, where its volume can be on one only.

    Else the second would wait for the volume for ever, and nobody would be told. A pod that finds no
    other satisfies the rule itself, because it matches the selector.
    """
    if not service.model.one_node:
        return {}
    both = {key: value for key, value in selector_labels(service.name).items() if key != LABEL_COMPONENT}
    term = {"labelSelector": {"matchLabels": both}, "topologyKey": HOSTNAME_LABEL}
    return {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}


def worker_image(service: ZImageService, environment: Environment) -> Manifest:
    """Build which image runs, and when it is pulled."""
    image = service.spec.image
    return {
        "image": image.reference if image else environment.worker_image,
        "imagePullPolicy": image.pull_policy if image else "IfNotPresent",
    }


def rolls(service: ZImageService) -> bool:
    """Whether a successor serves before a worker ends; where none does, waiting for the proxies only costs time."""
    return service.spec.rollout.strategy == "RollingUpdate"


def container(service: ZImageService, environment: Environment) -> Manifest:
    """Build the one container."""
    leaving: Manifest = {"lifecycle": {"preStop": {"sleep": {"seconds": LEAVE_SECONDS}}}}
    body: Manifest = {
        "name": "worker",
        **worker_image(service, environment),
        "args": ["serve"],
        "envFrom": [{"configMapRef": {"name": service.name}}],
        "ports": [
            {"name": HTTP_PORT_NAME, "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": MANAGEMENT_PORT_NAME, "containerPort": MANAGEMENT_PORT, "protocol": "TCP"},
        ],
        "resources": resources(service),
        "securityContext": UNPRIVILEGED,
        # The management port answers before the model is loaded, so `live` holds from the first
        # seconds; a worker that loads for half an hour is alive and not ready.
        "startupProbe": probe("/health/live", period_seconds=2, failures=90),
        "livenessProbe": probe("/health/live", period_seconds=10, failures=6),
        "readinessProbe": probe("/health/ready", period_seconds=2, failures=1),
        "volumeMounts": mounts(service),
    }
    return body | (leaving if rolls(service) else {})


def probe(path: str, *, period_seconds: int, failures: int) -> Manifest:
    """Build a probe on the management port, which the kubelet reaches under every policy."""
    return {
        "httpGet": {"path": path, "port": MANAGEMENT_PORT_NAME},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def resources(service: ZImageService) -> Manifest:
    """Build requests and limits; an extended resource stands in both, with one value."""
    wanted, gpu = service.spec.resources, service.spec.gpu
    device = {gpu.extended_resource: str(gpu.count)} if gpu.extended_resource else {}
    built = {"requests": amounts(wanted.requests) | device, "limits": amounts(wanted.limits) | device}
    return built | ({"claims": [{"name": CLAIM}]} if gpu.claimed else {})


def claims(service: ZImageService) -> list[Manifest]:
    """Build the claim that each pod makes for its devices, where they come from a DRA driver."""
    if not service.spec.gpu.claimed:
        return []
    return [{"name": CLAIM, "resourceClaimTemplateName": claim_template_name(service)}]


def tolerations(service: ZImageService) -> list[Manifest]:
    """Build the tolerations: nodes with a device plugin are tainted with the device's name, by convention."""
    device = service.spec.gpu.extended_resource
    own = [{"key": device, "operator": "Exists", "effect": "NoSchedule"}] if device else []
    given = service.spec.scheduling.tolerations
    return own + [item.model_dump(by_alias=True, exclude_none=True) for item in given]


def spread(service: ZImageService, wanted: TopologySpread) -> Manifest:
    """Build one rule of how workers are spread: one broken node should not take every one of them."""
    return {
        "maxSkew": wanted.max_skew,
        "topologyKey": wanted.topology_key,
        "whenUnsatisfiable": wanted.when_unsatisfiable,
        "labelSelector": {"matchLabels": selector_labels(service.name)},
    }


def volumes(service: ZImageService) -> list[Manifest]:
    """Build the volumes. Credentials are optional: without them the worker starts, refuses
    everybody and says what is missing, so that the operator never has to read a Secret.
    """
    items: list[Manifest] = [
        {"name": "model", **model_volume(service)},
        # Python's and torch's scratch files; the root is read-only.
        {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
    ]
    if service.auth.basic:
        items.append(secret_volume("basic", service.basic_secret, BASIC_KEY, "htpasswd"))
    items += token_volumes(service.auth)
    if service.tls_secret:
        # The certificate alone, for the posture: the key stays with the edge.
        items.append(secret_volume("certificate", service.tls_secret, CERTIFICATE_KEY, CERTIFICATE_KEY))
    return items


def token_volumes(auth: Auth) -> list[Manifest]:
    """Build the volumes with the keys that verify tokens."""
    items = []
    if auth.jwt and auth.jwt.jwks.secret_name:
        items.append(secret_volume("jwks", auth.jwt.jwks.secret_name, JWKS_KEY, JWKS_KEY))
    if auth.jwt and auth.jwt.jwks.config_map_name:
        source = {"name": auth.jwt.jwks.config_map_name, "optional": True, "defaultMode": CREDENTIAL_MODE}
        items.append({"name": "jwks", "configMap": {**source, "items": [{"key": JWKS_KEY, "path": JWKS_KEY}]}})
    if auth.token and auth.token.enabled and auth.token.signing_key_secret_name:
        items.append(secret_volume("token", auth.token.signing_key_secret_name, SIGNING_KEY, SIGNING_KEY))
    return items


def secret_volume(volume: str, secret: str, key: str, path: str) -> Manifest:
    """Build a volume with one key of one Secret, which may be missing."""
    source = {"secretName": secret, "optional": True, "defaultMode": CREDENTIAL_MODE}
    return {"name": volume, "secret": {**source, "items": [{"key": key, "path": path}]}}


def model_volume(service: ZImageService) -> Manifest:
    """Build the source of the weights; the worker cannot write to it."""
    source = service.model.source
    if isinstance(source, HubSource):
        return {"persistentVolumeClaim": {"claimName": f"{service.name}-{MODEL_CLAIM}", "readOnly": True}}
    if isinstance(source, ClaimSource):
        return {"persistentVolumeClaim": {"claimName": source.claim_name, "readOnly": True}}
    return {"image": {"reference": source.reference, "pullPolicy": "IfNotPresent"}}


def mounts(service: ZImageService) -> list[Manifest]:
    """Build the mounts that belong to `volumes`."""
    named = ((item["name"], PATHS[item["name"]]) for item in volumes(service))
    return [{"name": name, "mountPath": path, **({} if name == "tmp" else {"readOnly": True})} for name, path in named]
