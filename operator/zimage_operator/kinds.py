"""The kinds that the operator reads or writes, and where the API server serves them."""

from __future__ import annotations

from dataclasses import dataclass

from .names import CHILD_SELECTOR, FOREIGN_SLICES, GROUP, KIND, PLURAL, POD_SELECTOR, VERSION


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
    # Of use only to an operator that sees the whole cluster.
    everywhere: bool = False

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


def of_envoy(name: str, plural: str) -> Kind:
    """A policy of Envoy Gateway: it comes with a Gateway, and who sees no GatewayClass makes none."""
    return Kind(name, "gateway.envoyproxy.io", "v1alpha1", plural, CHILD_SELECTOR, optional=True, everywhere=True)


SERVICES = Kind(KIND, GROUP, VERSION, PLURAL)
PODS = Kind("Pod", "", "v1", "pods", POD_SELECTOR)
GATEWAY_API = "gateway.networking.k8s.io"
# Whom a service lets in by labels (namespaces.py); with Roles only nobody can look.
NAMESPACES = Kind("Namespace", "", "v1", "namespaces", namespaced=False, everywhere=True)
# What belongs to the cluster's administrators: the ways in (entrances.py).
ENTRANCES = (
    Kind("IngressClass", "networking.k8s.io", "v1", "ingressclasses", namespaced=False, everywhere=True),
    Kind("GatewayClass", GATEWAY_API, "v1", "gatewayclasses", namespaced=False, optional=True, everywhere=True),
    Kind("Gateway", GATEWAY_API, "v1", "gateways", optional=True, everywhere=True),
)
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
    child("PodMonitor", "monitoring.coreos.com", "v1", "podmonitors", optional=True),
    child("Certificate", "cert-manager.io", "v1", "certificates", optional=True),
    child("TLSOption", "traefik.io", "v1alpha1", "tlsoptions", optional=True),
    child("Middleware", "traefik.io", "v1alpha1", "middlewares", optional=True),
    child("Policy", "k8s.nginx.org", "v1", "policies", optional=True),
    of_envoy("SecurityPolicy", "securitypolicies"),
    of_envoy("BackendTrafficPolicy", "backendtrafficpolicies"),
    audited("Ingress", "networking.k8s.io", "v1", "ingresses"),
    audited("HTTPRoute", GATEWAY_API, "v1", "httproutes", optional=True),
)
# What others may publish a service by.
ROUTES = (
    audited("GRPCRoute", "gateway.networking.k8s.io", "v1", "grpcroutes", optional=True),
    audited("TLSRoute", "gateway.networking.k8s.io", "v1", "tlsroutes", optional=True),
    audited("TCPRoute", "gateway.networking.k8s.io", "v1", "tcproutes", optional=True),
    audited("IngressRoute", "traefik.io", "v1alpha1", "ingressroutes", optional=True),
    audited("IngressRouteTCP", "traefik.io", "v1alpha1", "ingressroutetcps", optional=True),
)
# What sends a Service's requests to addresses, where it is not the controller that follows its selector: those of
# a large cluster change all the time, and lead where the Service says.
SLICES = Kind("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices", FOREIGN_SLICES)
WATCHED = (SERVICES, NAMESPACES, *ENTRANCES, PODS, *CHILDREN, *ROUTES, SLICES)


def watched(*, everywhere: bool) -> tuple[Kind, ...]:
    """Give the kinds to watch: with Roles only, classes cannot be read, and so there are no Gateways."""
    return tuple(kind for kind in WATCHED if everywhere or not kind.everywhere)


# How the API of an optional kind comes into a cluster, by its group.
INSTALL = {
    "traefik.io": "kubectl apply --server-side -f https://raw.githubusercontent.com/traefik/traefik/v3.7/"
    "docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml",
    "k8s.nginx.org": "kubectl apply --server-side -f https://raw.githubusercontent.com/nginx/kubernetes-ingress/"
    "v5.5.4/deploy/crds.yaml",
    GATEWAY_API: "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/"
    "v1.6.1/standard-install.yaml",
    "gateway.envoyproxy.io": "helm install eg oci://docker.io/envoyproxy/gateway-helm --version v1.9.0 "
    "-n envoy-gateway-system --create-namespace",
    "monitoring.coreos.com": "kubectl apply --server-side -f https://github.com/prometheus-operator/"
    "prometheus-operator/releases/download/v0.85.0/bundle.yaml",
    "cert-manager.io": "kubectl apply -f https://github.com/cert-manager/cert-manager/releases/download/v1.21.1/"
    "cert-manager.yaml",
}

BY_NAME = {kind.name: kind for kind in (*WATCHED, SECRETS)}
