"""Every name that others rely on: group, labels, ports, paths, field managers.

Selector labels are never changed once released: they are immutable on a Deployment,
and a NetworkPolicy that selects other pods protects nothing.
"""

from __future__ import annotations

GROUP = "zimage.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "ZImageService"
PLURAL = "zimageservices"
SINGULAR = "zimageservice"
SHORT_NAME = "zis"

MANAGER = "zimage-operator"
STATUS_MANAGER = "zimage-operator-status"
# Holds a Deployment's replicas between the moment we fall silent and the autoscaler's first word.
HANDOVER_MANAGER = "zimage-operator-handover"

# On children only, never on the resource itself.
HASH_ANNOTATION = f"{GROUP}/applied-hash"
REVISION_ANNOTATION = f"{GROUP}/template-revision"
# On pods and their template: the folder of the fetched model that they serve.
MODEL_ANNOTATION = f"{GROUP}/model"

NAMESPACE_LABEL = "kubernetes.io/metadata.name"
LABEL_NAME = "app.kubernetes.io/name"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_PART_OF = "app.kubernetes.io/part-of"

# What the watch streams of children are filtered by, on the server.
CHILD_SELECTOR = f"{LABEL_MANAGED_BY}={MANAGER}"
# Every pod that a worker's selector can match, ours or not: those of strangers get our requests too.
POD_SELECTOR = f"{LABEL_NAME}=zimage"
# EndpointSlices that follow no Service's selector: written by hand, mirrored from Endpoints, or of another controller.
FOREIGN_SLICES = "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io"
# The labels of the operator's own pods (operator/install.yaml): the management port admits them.
OPERATOR_POD_LABELS = {LABEL_NAME: "zimage-operator"}

HTTP_PORT = 7860
HTTP_PORT_NAME = "http"
MANAGEMENT_PORT = 9090
MANAGEMENT_PORT_NAME = "management"

# Longer names would push `NAME-something` of a child past the 63 characters of a label.
NAME_LENGTH = 40

# Holes that one status lists; a person mends the first before the seventeenth matters.
MAX_EXPOSURES = 16

# What an autoscaler reads of each worker, in the custom metrics API (docs/autoscaling.md).
QUEUE_METRIC = "zimage_queue_depth"

# The worker image's user (worker/Dockerfile): no system user of any base image has it.
WORKER_UID = 10001

MODEL_MOUNT = "/model"
# The volume of fetched models, as the download Job sees it.
MODELS_MOUNT = "/models"
HUB_MOUNT = "/etc/zimage/hub"
HUB_KEY = "token"
BASIC_MOUNT = "/etc/zimage/basic"
BASIC_KEY = "auth"
JWKS_MOUNT = "/etc/zimage/jwks"
JWKS_KEY = "jwks.json"
SIGNING_MOUNT = "/etc/zimage/token"
SIGNING_KEY = "key"
CERTIFICATE_MOUNT = "/etc/zimage/certificate"
CERTIFICATE_KEY = "tls.crt"

# The download Job is NAME-this-HASH, its NetworkPolicy NAME-this; its pods carry it as their component.
DOWNLOAD = "download"
# The claim of fetched models: NAME-this.
MODEL_CLAIM = "model"

TRAEFIK_CONTROLLER = "traefik.io/ingress-controller"
# On an IngressClass of Traefik's, by its administrator: providers.kubernetesCRD.safeNaming is on ("true").
SAFE_NAMING_ANNOTATION = f"{GROUP}/traefik-safe-naming"
# What it adds to the controller's name: in ZIMAGE_OPERATOR_INGRESS_CLASSES and `render --controller` too.
SAFE_NAMING = "+safe-naming"

# cert-manager's Certificate NAME-this, and the Secret of that name that it fills.
TLS = "tls"
# The route NAME-this publishes POST /token.
SIGN_IN = "token"

# Generated credentials: NAME-this. The first two are Secrets, the other two ConfigMaps (credentials.py).
HTPASSWD = "basic-auth"
LOGIN = "credentials"
ISSUE = "credentials"
RECEIPT = "credentials-receipt"
GENERATED_USER = "zimage"


def selector_labels(instance: str, component: str = "worker") -> dict[str, str]:
    """Give the labels that select the pods of one component of one service."""
    return {LABEL_NAME: "zimage", LABEL_INSTANCE: instance, LABEL_COMPONENT: component}


def labels(instance: str, component: str = "worker") -> dict[str, str]:
    """Give the labels that every object of a service carries."""
    return {**selector_labels(instance, component), LABEL_MANAGED_BY: MANAGER, LABEL_PART_OF: "zimage"}
