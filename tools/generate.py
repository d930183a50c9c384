#!/usr/bin/env python3
"""Write everything that is made from the code, or with --check say what is out of date.

generate.py [--check | --freeze VERSION]

--freeze: at a release, keep what this operator makes of the golden resources as tests/operator/upgrade/VERSION,
for its successors to be held against (test_upgrade.py).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import crd_reference
import operator_metrics
import rules_page
import worker_metrics
import yaml

import chart
from zimage_operator.__main__ import CONTROLLER, DEFAULTS, document, rendered, standalone_order
from zimage_operator.crd import definition
from zimage_operator.edge import standalone
from zimage_operator.manifest import Manifest
from zimage_operator.names import GROUP, PLURAL
from zimage_operator.policy import policy

ROOT = Path(__file__).resolve().parent.parent


def outputs() -> dict[Path, str]:
    """Give every generated file with what it has to hold."""
    folder = ROOT / "operator"
    return {
        ROOT / "crds" / f"{GROUP}_{PLURAL}.yaml": document(definition()),
        folder / "admission-policy.yaml": ABOUT_POLICY + documents(policy()),
        folder / "install-namespaced.yaml": ABOUT_ROLES + documents(namespaced()),
        ROOT / "docs/reference/operator-metrics.md": operator_metrics.page(),
        ROOT / "docs/reference/worker-metrics.md": worker_metrics.page(),
        ROOT / "docs/reference/zimageservice.md": crd_reference.page(),
        ROOT / "docs/rules.md": rules_page.page(),
        folder / "zimage_operator/memory_plan.py": copied(ROOT / "worker/zimage_worker/memory_plan.py"),
        **chart.outputs(),
        **goldens(),
        **standalone_goldens(),
    }


def goldens() -> dict[Path, str]:
    """Give what each golden resource becomes: a change of a builder is reviewed as a change of these files."""
    found = sorted((ROOT / "tests" / "operator" / "golden").glob("*/resource.yaml"))
    return {path.with_name("children.yaml"): children(path) for path in found}


def children(path: Path) -> str:
    """Give the children of one resource as YAML documents, in the order of application."""
    controller = path.with_name("controller")
    named = controller.read_text().strip() if controller.exists() else ""
    return documents(rendered(yaml.safe_load(path.read_text()), named))


# Where the golden resources for plain hosts run.
STANDALONE = {"one-host": standalone.ONE_HOST, "two-hosts": standalone.Hosts(inner="10.0.1.2", dmz="10.0.0.2")}


def standalone_goldens() -> dict[Path, str]:
    """Give the files for plain hosts of some golden resources."""
    found: dict[Path, str] = {}
    for name, hosts in STANDALONE.items():
        folder = ROOT / "tests" / "operator" / "golden-standalone" / name
        body = yaml.safe_load((folder / "resource.yaml").read_text())
        files = standalone.files(standalone_order(body, DEFAULTS, hosts))
        found |= {folder / path: text for path, text in files.items()}
    return found


def documents(items: list[Manifest]) -> str:
    """Write several manifests into one file."""
    return "---\n".join(document(item) for item in items)


ABOUT_POLICY = """\
# Who may write a ZImageService: only who may create Deployments there and read the Secrets that it names.
# kubectl apply --server-side -f operator/admission-policy.yaml (Kubernetes 1.30 and newer; made by make generate)
"""
ABOUT_ROLES = """\
# The operator for one namespace, with Roles only: in place of operator/install.yaml (made from it by make generate).
# For more namespaces repeat the Role and the RoleBinding of team-a, and list them all in
# ZIMAGE_OPERATOR_WATCH_NAMESPACES. What it cannot do without a ClusterRole: look up IngressClasses (write them into
# ZIMAGE_OPERATOR_INGRESS_CLASSES) and GatewayClasses (so no spec.gateway), and notice CRDs that are installed
# after its start (restart it then).
"""
PLACE = "team-a"


def namespaced() -> list[Manifest]:
    """Turn operator/install.yaml into its variant with Roles only."""
    items = yaml.safe_load_all((ROOT / "operator" / "install.yaml").read_text())
    return [in_namespace(item) for item in items]


def in_namespace(item: Manifest) -> Manifest:
    """Turn one object into what it is for one namespace."""
    kind, head = item["kind"], item["metadata"]
    if kind == "ClusterRole":
        return {
            **item,
            "kind": "Role",
            "metadata": {**head, "namespace": PLACE},
            "rules": chart.by_roles(item["rules"]),
        }
    if kind == "ClusterRoleBinding":
        role = {**item["roleRef"], "kind": "Role"}
        return {**item, "kind": "RoleBinding", "metadata": {**head, "namespace": PLACE}, "roleRef": role}
    if kind == "Deployment":
        container = item["spec"]["template"]["spec"]["containers"][0]
        values = {"WATCH_NAMESPACES": PLACE, "INGRESS_CLASSES": f"traefik={CONTROLLER}"}
        container["env"] += [{"name": f"ZIMAGE_OPERATOR_{name}", "value": text} for name, text in values.items()]
    return item


def copied(source: Path) -> str:
    """Give a module for the other package: they never import each other, and one closed form is enough."""
    head = f"# Generated from {source.relative_to(ROOT)} by tools/generate.py: edit that one, then `make generate`.\n"
    return head + source.read_text()


# Their templates differ from each other in what an upgrade may get wrong.
FROZEN_CASES = ("smallest", "scheduling", "image-source", "no-gpu", "rolling")


def freeze(version: str) -> None:
    """Copy some golden cases as they are now."""
    golden, target = ROOT / "tests" / "operator" / "golden", ROOT / "tests" / "operator" / "upgrade" / version
    for case in FROZEN_CASES:
        shutil.copytree(golden / case, target / case)


def main() -> int:
    """Write or compare; exit code 1 where --check finds a difference."""
    if "--freeze" in sys.argv:
        freeze(sys.argv[-1])
        return 0
    stale = [path for path, text in outputs().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: make generate")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(outputs()[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
