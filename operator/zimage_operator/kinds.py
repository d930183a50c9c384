"""The kinds that the operator reads or writes, and where the API server serves them."""

from __future__ import annotations

from dataclasses import dataclass

from .names import CHILD_SELECTOR, GROUP, KIND, PLURAL, POD_SELECTOR, VERSION


@dataclass(frozen=True)
class Kind:
    """One kind: its group, version and plural, and how the operator watches it."""

    name: str
    group: str
    version: str
    plural: str
    # Filters lists and watches on the server.
    selector: str = ""
    namespaced: bool = True
    # Served only where somebody else's CRDs are installed.
    optional: bool = False

    @property
    def api_version(self) -> str:
        """Group and version as objects carry them."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """The path of the group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str = "", name: str = "") -> str:
        """Give the path of one object, or of the collection."""
        place = f"/namespaces/{namespace}" if namespace else ""
        return f"{self.root}{place}/{self.plural}{'/' + name if name else ''}"


def child(name: str, group: str, version: str, plural: str, *, optional: bool = False) -> Kind:
    return Kind(name, group, version, plural, CHILD_SELECTOR, optional=optional)


def audited(name: str, group: str, version: str, plural: str, *, optional: bool = False) -> Kind:
    """A kind of which the objects of others can open a service: no label tells them apart on the server."""
    return Kind(name, group, version, plural, optional=optional)


SERVICES = Kind(KIND, GROUP, VERSION, PLURAL)
PODS = Kind("Pod", "", "v1", "pods", POD_SELECTOR)
INGRESS_CLASSES = Kind("IngressClass", "networking.k8s.io", "v1", "ingressclasses", namespaced=False)
# Created, never read: neither listed nor watched.
SECRETS = Kind("Secret", "", "v1", "secrets")
# In the order of application; deleted in reverse.
CHILDREN = (
    audited("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies"),
    child("ServiceAccount", "", "v1", "serviceaccounts"),
    child("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims"),
    child("Job", "batch", "v1", "jobs"),
    child("ConfigMap", "", "v1", "configmaps"),
    # Kubernetes 1.34 and newer.
    child("ResourceClaimTemplate", "resource.k8s.io", "v1", "resourceclaimtemplates", optional=True),
    child("Deployment", "apps", "v1", "deployments"),
    audited("Service", "", "v1", "services"),
    child("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets"),
    child("HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers"),
    child("TLSOption", "traefik.io", "v1alpha1", "tlsoptions", optional=True),
    child("Middleware", "traefik.io", "v1alpha1", "middlewares", optional=True),
    audited("Ingress", "networking.k8s.io", "v1", "ingresses"),
)
# What others may publish a service by.
ROUTES = (
    audited("HTTPRoute", "gateway.networking.k8s.io", "v1", "httproutes", optional=True),
    audited("IngressRoute", "traefik.io", "v1alpha1", "ingressroutes", optional=True),
    audited("IngressRouteTCP", "traefik.io", "v1alpha1", "ingressroutetcps", optional=True),
)
WATCHED = (SERVICES, INGRESS_CLASSES, PODS, *CHILDREN, *ROUTES)


def watched(*, everywhere: bool) -> tuple[Kind, ...]:
    """Give the kinds to watch: with Roles only, what belongs to no namespace cannot be read."""
    return tuple(kind for kind in WATCHED if everywhere or kind.namespaced)


BY_NAME = {kind.name: kind for kind in (*WATCHED, SECRETS)}
