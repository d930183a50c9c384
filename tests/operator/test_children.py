"""The desired objects: valid Kubernetes, in order, and closed where they have to be."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from cluster.control_plane import ControlPlane
from support import smallest
from zimage_operator.__main__ import rendered
from zimage_operator.children import children
from zimage_operator.children.configmap import settings
from zimage_operator.edge import dialect, plain, traefik
from zimage_operator.kinds import CHILDREN
from zimage_operator.manifest import Environment, Manifest, stamped
from zimage_operator.spec import parse

ENVIRONMENT = Environment("registry.example.org/zimage-worker:0.1.0", "zimage-system")
GOLDEN = Path(__file__).parent / "golden"
# Their schemas come with their CRDs: test_the_api_server_takes_every_object.
OF_OTHERS = {kind.name for kind in CHILDREN if kind.optional and kind.group != "resource.k8s.io"}
# What each becomes stands beside it in children.yaml, made by `make generate` and held against it by `make check`.
VARIANTS = sorted(path.parent.name for path in GOLDEN.glob("*/resource.yaml"))


def build(variant: str) -> list[Manifest]:
    return [stamped(item) for item in as_rendered(variant)]


def as_rendered(variant: str) -> list[Manifest]:
    """What `render` makes of a golden resource, behind the edge that stands beside it; Traefik where none does."""
    body, controller = yaml.safe_load((GOLDEN / variant / "resource.yaml").read_text()), GOLDEN / variant / "controller"
    return rendered(body, controller.read_text().strip() if controller.exists() else "")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_object_is_valid_kubernetes(variant: str) -> None:
    for item in build(variant):
        if item["kind"] not in OF_OTHERS:
            kubernetes_validate.validate(item, "1.37", strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_golden_file_is_what_is_built(variant: str) -> None:
    golden = list(yaml.safe_load_all((GOLDEN / variant / "children.yaml").read_text()))
    assert golden == as_rendered(variant)


@pytest.mark.control_plane
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_api_server_takes_every_object(installed: ControlPlane, variant: str) -> None:
    installed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}})
    documents = (GOLDEN / variant / "children.yaml").read_text()
    command = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    printed = installed.kubectl(*command, input=documents)
    assert len(printed.splitlines()) == len(build(variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_object_has_its_owner_and_its_labels(variant: str) -> None:
    for item in build(variant):
        head = item["metadata"]
        assert head["ownerReferences"][0]["uid"] == "11111111-1111-1111-1111-111111111111"
        assert head["labels"]["app.kubernetes.io/managed-by"] == "zimage-operator"
        assert head["namespace"] == "team-a"


def by_kind(variant: str, kind: str) -> Manifest:
    return next(item for item in build(variant) if item["kind"] == kind)


def test_the_policy_is_first_and_the_route_last() -> None:
    kinds = [item["kind"] for item in build("smallest")]
    assert kinds[0] == "NetworkPolicy"
    assert kinds[-1] == "Ingress"


def test_only_dmz_reaches_7860_and_nothing_gets_out() -> None:
    spec = by_kind("smallest", "NetworkPolicy")["spec"]
    doors = {rule["ports"][0]["port"]: rule["from"] for rule in spec["ingress"]}
    assert doors[7860] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "dmz"}}}]
    assert spec["egress"] == []
    assert spec["policyTypes"] == ["Ingress", "Egress"]


def test_namespace_and_pod_labels_stand_in_one_item() -> None:
    """In two items they would mean OR, and every pod of every namespace with that label could come in."""
    spec = by_kind("proxies", "NetworkPolicy")["spec"]
    assert all(set(peer) == {"namespaceSelector", "podSelector"} for peer in spec["ingress"][0]["from"])


def test_the_pod_is_locked_down_and_its_credentials_optional() -> None:
    pod = by_kind("smallest", "Deployment")["spec"]["template"]["spec"]
    security = pod["containers"][0]["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False
    secrets = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert {secret["secretName"] for secret in secrets} == {"studio-users", "img-tls"}
    assert all(secret["optional"] for secret in secrets)
    # The certificate, never its key.
    assert [secret["items"] for secret in secrets if secret["secretName"] == "img-tls"] == [
        [{"key": "tls.crt", "path": "tls.crt"}]
    ]


def test_a_changed_setting_starts_new_pods() -> None:
    one = by_kind("smallest", "Deployment")["spec"]["template"]["metadata"]["annotations"]
    body = smallest(namespace="team-a", generation={"maxSteps": 8})
    other = children(parse(body), ENVIRONMENT)[3]["spec"]["template"]["metadata"]["annotations"]
    assert one != other


def test_the_edge_limits_before_it_hashes_and_hands_the_credentials_on() -> None:
    service = parse(smallest(namespace="team-a"))
    names = [item["metadata"]["name"] for item in traefik.middlewares(service)]
    assert names == ["studio-rate-limit", "studio-auth", "studio-headers"]
    basic = traefik.middlewares(service)[1]["spec"]["basicAuth"]
    assert basic == {"secret": "studio-users", "realm": "zimage", "removeHeader": False}
    annotations = traefik.routes(service)[0]["metadata"]["annotations"]
    chain = annotations["traefik.ingress.kubernetes.io/router.middlewares"].split(",")
    assert chain == [f"team-a-{name}@kubernetescrd" for name in names]


def test_an_unknown_controller_gets_routing_alone() -> None:
    service = parse(smallest())
    assert dialect(service, None) is None
    assert dialect(service, "example.org/other") is plain
    assert dialect(parse(smallest(ingress=None)), "traefik.io/ingress-controller") is None


def test_the_published_host_is_the_first_that_the_worker_answers_to() -> None:
    values = settings(parse(smallest(namespace="team-a")))
    assert values["ZIMAGE_ALLOWED_HOSTS"].split(",")[0] == "img.example.org"


def test_an_autoscaler_is_never_contradicted() -> None:
    assert "replicas" not in by_kind("autoscaled", "Deployment")["spec"]
    target = by_kind("autoscaled", "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "studio"}


def test_a_budget_never_holds_up_a_drain() -> None:
    """minAvailable 1 over one replica would, for ever."""
    spec = by_kind("smallest", "PodDisruptionBudget")["spec"]
    assert spec["maxUnavailable"] == 1
    assert "minAvailable" not in spec


def test_devices_come_from_a_claim_or_from_a_plugin_never_from_both() -> None:
    pod = by_kind("claims", "Deployment")["spec"]["template"]["spec"]
    template = by_kind("claims", "ResourceClaimTemplate")
    assert pod["resourceClaims"] == [{"name": "gpu", "resourceClaimTemplateName": template["metadata"]["name"]}]
    assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]
    assert "resourceClaims" not in by_kind("smallest", "Deployment")["spec"]["template"]["spec"]
    # The template stands before the pods that name it.
    kinds = [item["kind"] for item in build("claims")]
    assert kinds.index("ResourceClaimTemplate") < kinds.index("Deployment")


def test_suspended_means_no_worker_and_no_route_and_stopping_comes_first() -> None:
    kinds = [item["kind"] for item in build("suspended")]
    assert kinds[0] == "Deployment"
    assert by_kind("suspended", "Deployment")["spec"]["replicas"] == 0
    assert not {"Ingress", "HorizontalPodAutoscaler"} & set(kinds)
    assert {"NetworkPolicy", "Service", "PodDisruptionBudget", "Middleware"} <= set(kinds)


def test_who_is_not_published_for_now_differs_by_route_and_helpers_alone() -> None:
    """Another setting or template would restart workers that take minutes to load."""
    kept = [item for item in build("smallest") if item["kind"] not in ("Middleware", "TLSOption", "Ingress")]
    assert build("unpublished") == kept


def test_only_the_port_of_the_keys_is_open_and_no_node_credentials_are_within_reach() -> None:
    egress = by_kind("jwks-url", "NetworkPolicy")["spec"]["egress"]
    assert [[port["port"] for port in rule["ports"]] for rule in egress] == [[53, 53], [8443]]
    # Wherever the cluster's DNS is: on the test node it is no pod (tests/operator/test_proof.py).
    assert "to" not in egress[0]
    closed = [address for peer in egress[1]["to"] for address in peer["ipBlock"]["except"]]
    assert "169.254.0.0/16" in closed
    for variant in ("jwt", "any", "token", "generated"):
        assert by_kind(variant, "NetworkPolicy")["spec"]["egress"] == []


def test_the_token_route_is_one_path_and_asks_nobody_but_has_every_other_protection() -> None:
    main, token = (item for item in build("token") if item["kind"] == "Ingress")
    name = "traefik.ingress.kubernetes.io/router.middlewares"
    both = [item["metadata"]["annotations"][name].split(",") for item in (main, token)]
    assert [part for part in both[0] if part not in both[1]] == ["team-a-studio-auth@kubernetescrd"]
    assert set(both[1]) < set(both[0])
    assert token["spec"]["rules"][0]["http"]["paths"][0]["path"] == "/token"
    assert token["spec"]["rules"][0]["http"]["paths"][0]["pathType"] == "Exact"
    # Without it Traefik takes the other route, whose rule is a character longer (seen on the node).
    assert token["metadata"]["annotations"]["traefik.ingress.kubernetes.io/router.priority"] == "1000"


def test_what_is_made_up_is_not_rendered() -> None:
    """A password that stands in a golden file would be one that everybody knows."""
    assert not [item for item in build("generated") if item["kind"] == "Secret"]
