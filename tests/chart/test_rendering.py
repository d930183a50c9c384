"""What the chart becomes under every switch: valid for each version, and the same operator as operator/install.yaml."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cluster.control_plane import CommandFailed, ControlPlane
from releases import CHART, Helm, told
from support import ROOT, eventually
from zimage_operator import settings
from zimage_operator.bounds import Bounds
from zimage_operator.names import OPERATOR_POD_LABELS

EVERYTHING: dict[str, Any] = {
    "replicas": 3,
    "image": {"digest": f"sha256:{'a' * 64}", "pullSecrets": ["registry"], "pullPolicy": "Always"},
    "settings": {"edgeProbe": "traefik.dmz.svc:443", "allowJwksUrl": True, "logLevel": "debug", "port": 9000},
    "dmz": {"create": True, "name": "edge"},
    "networkPolicy": {"apiServerCidrs": ["10.0.0.1/32"], "metricsNamespaces": []},
    "monitoring": {"podMonitors": True, "alerts": True, "dashboards": True, "labels": {"release": "prometheus"}},
    "labels": {"cost-centre": "images"},
    "annotations": {"owner": "platform"},
    "podLabels": {"team": "platform", "app.kubernetes.io/name": "another"},
    "podAnnotations": {"note": "x"},
    "serviceAccount": {"name": "other", "annotations": {"cloud": "role"}},
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "system-cluster-critical",
}
NAMESPACED: dict[str, Any] = {
    "settings": {
        "watchNamespaces": ["team-a", "team-b"],
        "ingressClasses": {"traefik": "traefik.io/ingress-controller", "nginx": "k8s.io/ingress-nginx"},
    },
    "crds": {"install": False},
    "admissionPolicy": {"enabled": False},
}
NOTHING: dict[str, Any] = {
    "replicas": 1,
    "settings": {"leaderElection": False},
    "crds": {"install": False},
    "admissionPolicy": {"enabled": False},
    "rbac": {"create": False},
    "serviceAccount": {"create": False},
    "networkPolicy": {"enabled": False},
}
VARIANTS = {"defaults": {}, "everything": EVERYTHING, "namespaced": NAMESPACED, "nothing": NOTHING}
VERSIONS = [f"1.{minor}" for minor in range(31, 38)]
# Kinds that a CRD brings: the API server judges them in test_life.py.
OTHERS = {"PodMonitor", "PrometheusRule"}


def named(items: list[dict[str, Any]], kind: str, name: str = "zimage-operator") -> dict[str, Any]:
    return next(item for item in items if (item["kind"], item["metadata"]["name"]) == (kind, name))


def container(items: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = named(items, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return found


@pytest.mark.control_plane
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_pods_of_a_variant_are_admitted_where_only_restricted_ones_are(
    control_plane: ControlPlane, offline: Helm, variant: str
) -> None:
    """The API server's own judgement, of the pods as such: of a Deployment it would only warn."""
    place = f"judged-{variant}"
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place, "labels": restricted}})
    eventually(lambda: control_plane.kubectl("-n", place, "get", "sa", "-o", "name"), "pods may be made")
    pods = [pod for item in offline.render(VARIANTS[variant]) if (pod := pod_of(item, place))]
    assert pods
    for pod in pods:
        control_plane.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(pod))
    pods[0]["spec"]["hostNetwork"] = True
    with pytest.raises(CommandFailed, match="violates PodSecurity"):
        control_plane.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(pods[0]))


def pod_of(item: dict[str, Any], place: str) -> dict[str, Any] | None:
    """The pod that an object is, or that it would have made; nothing for others."""
    found = item if item["kind"] == "Pod" else item.get("spec", {}).get("template")
    if not found or "containers" not in found.get("spec", {}):
        return None
    # The account is the release's own, and is not there.
    spec = {key: value for key, value in found["spec"].items() if key != "serviceAccountName"}
    head = {"name": "judged", "namespace": place, "labels": found["metadata"].get("labels", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": head, "spec": spec}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_clean_and_valid(offline: Helm, variant: str) -> None:
    values = VARIANTS[variant]
    assert "0 chart(s) failed" in offline("lint", "--strict", CHART, *told(values))
    items = offline.render(values)
    assert len({(item["kind"], item["metadata"]["name"], item["metadata"].get("namespace")) for item in items}) == len(
        items
    )
    for item in items:
        if item["kind"] not in OTHERS:
            kubernetes_validate.validate(item, "1.37", strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_of_kubernetes_takes_everything(offline: Helm, version: str) -> None:
    for item in offline.render(EVERYTHING, "--kube-version", version):
        if item["kind"] not in OTHERS:
            kubernetes_validate.validate(item, version, strict=True)


def test_helm_3_makes_the_same_of_it(offline: Helm, tmp_path: Path) -> None:
    assert Helm(tmp_path, major=3).render(EVERYTHING) == offline.render(EVERYTHING)


def test_an_older_cluster_is_refused_before_anything_happens(offline: Helm) -> None:
    answer = offline.run("template", CHART, "--kube-version", "1.30.9")
    assert answer.returncode
    assert "1.31" in answer.stderr


def test_the_defaults_are_install_yaml(offline: Helm) -> None:
    """Nothing of the operator is true in two places: what both have is the same."""
    items = offline.render()
    for plain in yaml.safe_load_all((ROOT / "operator" / "install.yaml").read_text()):
        if plain["kind"] == "Namespace":
            continue
        ours, name = named(items, plain["kind"]), (plain["kind"], plain["metadata"]["name"])
        parts = {"rules", "subjects", "roleRef"} & set(plain)
        assert {part: ours[part] for part in parts} == {part: plain[part] for part in parts}, name
        if plain["kind"] == "Deployment":
            assert_same_pod(plain["spec"], ours["spec"])
    assert sorted(OPERATOR_POD_LABELS.items()) == sorted(
        named(items, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    )


def assert_same_pod(plain: dict[str, Any], ours: dict[str, Any]) -> None:
    assert {key: ours[key] for key in ("replicas", "selector")} == {key: plain[key] for key in ("replicas", "selector")}
    mine, other = ours["template"]["spec"], plain["template"]["spec"]
    # Only these differ: more settings are written out, and the replicas are spread.
    del mine["topologySpreadConstraints"]
    shown = {item["name"]: item["value"] for item in mine["containers"][0].pop("env")}
    assert all(shown[item["name"]] == item["value"] for item in other["containers"][0].pop("env"))
    assert mine == other


def test_settings_and_values_are_one_to_one(offline: Helm) -> None:
    """Every setting has a value, and what the operator reads is what the value says."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())["settings"]
    assert {variable(name) for name in values} == asked() - {"ZIMAGE_OPERATOR_NAMESPACE"}
    wanted = {
        "watchNamespaces": ["a", "b"],
        "workerImage": BY_DIGEST,
        "allowedImagePrefixes": ["r.example.org/"],
        "requireImageDigest": True,
        "allowedHosts": [".example.org", "team-a=a.example.org"],
        "allowedClientNamespaces": ["dmz"],
        "allowedClientNamespaceLabels": ["name=dmz"],
        "allowedModels": ["persistentVolumeClaim:z-*"],
        "allowedPriorityClasses": ["low"],
        "allowJwksUrl": True,
        "updatePolicy": "Auto",
        "podMonitors": False,
        "podMonitorLabels": {"release": "prometheus"},
        "ingressClasses": {"one": "example.org/one", "two": "example.org/two"},
        "probeIntervalSeconds": 86400,
        "edgeProbe": "traefik.dmz.svc:8443",
        "port": 9000,
        "leaderElection": False,
        "logLevel": "warning",
        "logFormat": "text",
    }
    assert set(wanted) == set(values)
    items = offline.render({"settings": wanted, "replicas": 1})
    assert read(items) == settings.Settings(
        namespace="zimage-system",
        watch_namespaces=("a", "b"),
        worker_image=BY_DIGEST,
        update_policy="Auto",
        bounds=Bounds(
            image_prefixes=("r.example.org/",),
            image_digest=True,
            jwks_url=True,
            hosts=(("", ".example.org"), ("team-a", "a.example.org")),
            client_namespaces=("dmz",),
            client_labels=(("name", "dmz"),),
            models=("persistentVolumeClaim:z-*",),
            priority_classes=("low",),
        ),
        pod_monitors=False,
        pod_monitor_labels=(("release", "prometheus"),),
        ingress_classes={"one": "example.org/one", "two": "example.org/two"},
        probe_interval_seconds=86400,
        edge=settings.Edge(True, "traefik.dmz.svc", 8443),
        port=9000,
        leader_election=False,
        log_level="warning",
        log_format="text",
    )


def test_where_the_chart_has_workers_scraped_the_operator_adds_nothing_unasked(offline: Helm) -> None:
    """Scraped by two PodMonitors, every worker would count twice."""
    assert read(offline.render()).pod_monitors
    items = offline.render({"monitoring": {"podMonitors": True}})
    assert named(items, "PodMonitor", "zimage-workers")
    assert not read(items).pod_monitors


BY_DIGEST = f"r.example.org/w@sha256:{'b' * 64}"


def variable(value: str) -> str:
    snake = "".join(f"_{letter}" if letter.isupper() else letter for letter in value)
    return f"ZIMAGE_OPERATOR_{snake.upper()}"


def asked() -> set[str]:
    """What the operator reads of its environment, by watching it read."""
    names: set[str] = set()

    class Watched(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            names.add(name)
            return default

    settings.read(Watched())
    return {name for name in names if name.startswith("ZIMAGE_OPERATOR_")}


def read(items: list[dict[str, Any]]) -> settings.Settings:
    return settings.read({item["name"]: item["value"] for item in container(items)["env"]})


def test_the_defaults_are_the_operators_own(offline: Helm) -> None:
    alone = settings.read({"ZIMAGE_OPERATOR_LOG_FORMAT": "json"})
    assert read(offline.render()) == alone


@pytest.mark.parametrize(
    ("values", "told_of"),
    [
        ({"replica": 3}, "replica"),
        ({"settings": {"watchNamespace": ["a"]}}, "watchNamespace"),
        ({"settings": {"logLevel": "verbose"}}, "logLevel"),
        ({"settings": {"probeIntervalSeconds": "5m"}}, "probeIntervalSeconds"),
        ({"settings": {"watchNamespaces": "team-a"}}, "watchNamespaces"),
        ({"image": {"digest": "sha256:short"}}, "digest"),
        ({"replicas": 0}, "replicas"),
        ({"replicas": 2, "settings": {"leaderElection": False}}, "settings.leaderElection"),
    ],
)
def test_a_mistake_is_refused_by_name(offline: Helm, values: dict[str, Any], told_of: str) -> None:
    answer = offline.run("template", CHART, *told(values))
    assert answer.returncode
    assert told_of in answer.stderr


def test_with_a_list_of_namespaces_nothing_is_cluster_wide(offline: Helm) -> None:
    items = offline.render(NAMESPACED)
    assert not {item["kind"] for item in items} & {"ClusterRole", "ClusterRoleBinding", "Namespace"}
    places = {item["metadata"].get("namespace") for item in items}
    assert places == {"zimage-system", "team-a", "team-b"}
    roles = yaml.safe_load_all((ROOT / "operator" / "install-namespaced.yaml").read_text())
    plain = next(item["rules"] for item in roles if item["metadata"].get("namespace") == "team-a" and "rules" in item)
    for place in ("team-a", "team-b"):
        found = [item for item in items if item["metadata"].get("namespace") == place and item["kind"] == "Role"]
        assert [item["rules"] for item in found if "test" not in item["metadata"]["name"]] == [plain]


def test_the_admission_policy_is_there_unless_it_is_switched_off(offline: Helm) -> None:
    """Who may write a service must not borrow the operator's rights: by default in every release."""
    plain = list(yaml.safe_load_all((ROOT / "operator" / "admission-policy.yaml").read_text()))
    assert [item["kind"] for item in plain] == [f"ValidatingAdmissionPolicy{part}" for part in ("", "Binding")]
    items = offline.render()
    assert [named(items, item["kind"], item["metadata"]["name"]) for item in plain] == plain
    assert "Admission" not in str({item["kind"] for item in offline.render({"admissionPolicy.enabled": False})})


@pytest.mark.parametrize("values", [{}, NAMESPACED], ids=["everywhere", "in some namespaces"])
def test_the_right_to_create_secrets_is_given_only_where_credentials_are_made_up(
    offline: Helm, values: dict[str, Any]
) -> None:
    def rights(**more: Any) -> list[Any]:
        items = offline.render({**values, **more})
        return [rule for item in items if item["kind"] in ("Role", "ClusterRole") for rule in item["rules"]]

    kept = rights(**{"rbac.generatedCredentials": False})
    given = [rule for rule in rights() if rule not in kept]
    assert given
    assert {(*rule["resources"], *rule["verbs"]) for rule in given} == {("secrets", "create")}
    assert len(kept) == len(rights()) - len(given)
    assert "secrets" not in str(kept)


def test_the_dmz_and_the_dashboards_are_made_where_they_are_asked_for_and_only_there(offline: Helm) -> None:
    plain, everything = offline.render(), offline.render(EVERYTHING)
    assert not {item["kind"] for item in plain} & {"Namespace", "PodMonitor", "PrometheusRule"}
    assert named(everything, "Namespace", "edge")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    boards = [item for item in everything if item["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
    assert [item["metadata"]["name"] for item in boards] == ["zimage-dashboard-operator", "zimage-dashboard-services"]
    for board in boards:
        (text,) = board["data"].values()
        assert json.loads(text)["panels"]


def test_your_own_labels_take_nothing_away(offline: Helm) -> None:
    items = offline.render(EVERYTHING)
    pod = named(items, "Deployment")["spec"]["template"]["metadata"]
    assert pod["labels"] == {**OPERATOR_POD_LABELS, "team": "platform"}
    assert container(items)["image"] == f"ghcr.io/zimage-dev/zimage-operator@sha256:{'a' * 64}"
    ours = [item for item in items if item["kind"] not in ("CustomResourceDefinition", *OTHERS)]
    labelled = [item for item in ours if "Admission" not in item["kind"]]
    assert {item["metadata"]["labels"]["cost-centre"] for item in labelled} == {"images"}


def test_the_policy_lets_the_probe_through_and_strangers_only_where_asked(offline: Helm) -> None:
    closed, asked = ([port["port"] for rule in egress(offline, values) for port in rule["ports"]] for values in EDGES)
    assert closed == [443, 6443, 7860, 9090]
    assert asked == [443, 6443, 7860, 9090, 53, 53, 443, 8443]
    workers = egress(offline, {})[1]["to"]
    assert workers == [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "zimage"}}}]


EDGES: tuple[dict[str, Any], ...] = ({}, {"settings.edgeProbe": "dns"})


def egress(offline: Helm, values: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = named(offline.render(values), "NetworkPolicy")["spec"]["egress"]
    return found


def test_the_crd_stays_and_says_the_same(offline: Helm) -> None:
    ours = named(offline.render(), "CustomResourceDefinition", "zimageservices.zimage.dev")
    assert ours["metadata"].pop("annotations")["helm.sh/resource-policy"] == "keep"
    plain = yaml.safe_load((ROOT / "crds" / "zimage.dev_zimageservices.yaml").read_text())
    plain["metadata"].pop("annotations", None)
    assert ours == plain


def test_the_values_in_the_example_of_a_git_repository_are_values(offline: Helm) -> None:
    """docs/gitops/example: the schema takes them, and both tools bound the operator alike."""
    clusters = ROOT / "docs/gitops/example/clusters"
    flux = list(yaml.safe_load_all((clusters / "flux/operator.yaml").read_text()))[1]["spec"]
    argocd = yaml.safe_load((clusters / "argocd/operator.yaml").read_text())["spec"]
    values = flux["values"]
    assert values == argocd["source"]["helm"]["valuesObject"]
    paths = {ROOT / flux["chart"]["spec"]["chart"], ROOT / argocd["source"]["path"]}
    assert paths == {CHART}
    (container,) = named(offline.render(values), "Deployment", "zimage-operator")["spec"]["template"]["spec"][
        "containers"
    ]
    hosts = [one["value"] for one in container["env"] if one["name"] == "ZIMAGE_OPERATOR_ALLOWED_HOSTS"]
    workflow = yaml.safe_load((clusters.parent / ".github/workflows/check.yaml").read_text())
    assert hosts == [workflow["env"]["ZIMAGE_OPERATOR_ALLOWED_HOSTS"]]


def test_a_package_has_all_of_it(offline: Helm, tmp_path: Path) -> None:
    """Packed and read again it renders the same: nothing reaches outside the chart's folder."""
    copy = shutil.copytree(CHART, tmp_path / "chart")
    offline("package", copy, "-d", tmp_path)
    (packed,) = tmp_path.glob("*.tgz")
    texts = [offline("template", "x", chart, *told(EVERYTHING)) for chart in (packed, CHART)]
    assert texts[0] == texts[1]


def test_the_schema_knows_every_value(offline: Helm) -> None:
    """The generator reads the types off the defaults; here the defaults are held against the result."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) - {"global"} == set(yaml.safe_load((CHART / "values.yaml").read_text()))
