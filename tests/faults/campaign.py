"""The fault campaign: one operator, dozens of plans at a time, each in a namespace of its own.

After each step of the workload every namespace must be like the reference's, whatever was done to
it; and at no revision on the way was anything open that should not be (oracles.py).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from cluster.control_plane import ControlPlane
from faults.oracles import masked, violations
from faults.plans import CAMPAIGN, REFERENCES, Harmful, Plan, steps
from faults.proxy import Proxy
from recorder import Recorder
from support import Operator, eventually

PATHS = {
    "NetworkPolicy": "/apis/networking.k8s.io/v1/networkpolicies",
    "Ingress": "/apis/networking.k8s.io/v1/ingresses",
    "Middleware": "/apis/traefik.io/v1alpha1/middlewares",
    "Deployment": "/apis/apps/v1/deployments",
    "ZImageService": "/apis/zimage.dev/v1alpha1/zimageservices",
}
CHILDREN = "netpol,sa,cm,deploy,svc,pdb,tlsoption,middleware,ing"
SELECTOR = "app.kubernetes.io/managed-by=zimage-operator"
BYSTANDER = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "spec": {"podSelector": {"matchLabels": {"app": "another"}}},
}
# ESR: what is wanted is reached within this time, and stays.
CONVERGED_SECONDS = 120.0


class Campaign:
    """A control plane with the recorders that see every revision, past the proxy."""

    def __init__(self, cluster: ControlPlane, proxy: Proxy, operator: Operator) -> None:
        self.cluster, self.proxy, self.operator = cluster, proxy, operator
        self.recorders = {kind: Recorder(cluster, path) for kind, path in PATHS.items()}
        self.kills = 0
        proxy.kill = self.kill

    def kill(self) -> None:
        assert self.operator.process
        self.operator.process.kill()
        self.operator.process.wait()
        self.kills += 1

    def keep_alive(self) -> None:
        """Do what a kubelet does."""
        if self.operator.process is None or self.operator.process.poll() is not None:
            self.operator.start()

    def run(self, plans: Sequence[Plan], still_seconds: float = 3.0) -> dict[Plan, list[str]]:
        """Lead all plans through all steps; give what went wrong in each."""
        everyone = (*REFERENCES, *plans)
        harm = Harmful({plan.place: plan for plan in everyone})
        self.proxy.harm = harm
        places = [plan.place for plan in everyone]
        self.cluster.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one}} for one in places))
        head = {"name": "bystander"}
        self.cluster.apply(*(BYSTANDER | {"metadata": {**head, "namespace": one}} for one in places))
        bystanders = self.bystanders()
        problems: defaultdict[Plan, list[str]] = defaultdict(list)
        for number, _ in enumerate(steps("")):
            self.cluster.apply(*(steps(place)[number] for place in places))
            try:
                eventually(lambda: self.converged(places), f"step {number + 1}", CONVERGED_SECONDS)
            except AssertionError:
                for plan in everyone:
                    if not self.same(plan.place):
                        problems[plan].append(f"step {number + 1} was not reached in {CONVERGED_SECONDS:.0f} s")
                break
        for place in self.writes_in(set(places), still_seconds):
            problems[next(plan for plan in everyone if plan.place == place)].append("written to when all was done")
        for plan in everyone:
            problems[plan] += self.judged(plan)
            if plan.fault and plan not in harm.done:
                problems[plan].append("never came to its fault")
            if self.bystanders().get(plan.place) != bystanders.get(plan.place):
                problems[plan].append("a foreign object was touched")
        self.proxy.harm = lambda _: ""
        self.cluster.kubectl("delete", "zis", "-A", "-l", CAMPAIGN, "--wait=false")
        self.cluster.kubectl("delete", "namespace", *places, "--wait=false")
        return {plan: problems[plan] for plan in everyone}

    def converged(self, places: list[str]) -> bool:
        """Whether each namespace is settled and as the reference."""
        self.keep_alive()
        items = self.cluster.get("zis", "-A")["items"]
        mine = [item for item in items if item["metadata"]["namespace"] in places]
        if not all(map(settled, mine)):
            return False
        self.states = self.snapshot()
        return all(map(self.same, places))

    def same(self, place: str) -> bool:
        return self.states[place] == self.states[REFERENCES[0].place] != []

    def snapshot(self) -> defaultdict[str, list[str]]:
        """Every child of every namespace, masked."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for item in self.cluster.get(CHILDREN, "-A", "-l", SELECTOR)["items"]:
            if not item["metadata"].get("deletionTimestamp"):
                found[item["metadata"]["namespace"]].append(masked(item))
        return defaultdict(list, {place: sorted(texts) for place, texts in found.items()})

    def bystanders(self) -> dict[str, str]:
        items = self.cluster.get("netpol", "-A", "--field-selector=metadata.name=bystander")["items"]
        return {item["metadata"]["namespace"]: item["metadata"]["resourceVersion"] for item in items}

    def writes_in(self, places: set[str], seconds: float) -> list[str]:
        """Which of these namespaces are written to while nothing happens."""
        before = len(self.operator.writes())
        time.sleep(seconds)
        written = (entry["objectRef"].get("namespace", "") for entry in self.operator.writes()[before:])
        return sorted(places & set(written))

    def judged(self, plan: Plan) -> list[str]:
        """Hold every revision of a plan's namespace against the reference's."""
        allowed = {masked(item) for one in REFERENCES for item in self.revisions(one.place)}
        return violations(self.revisions(plan.place), allowed)

    def revisions(self, place: str) -> list[dict[str, Any]]:
        found = [
            {**item, "kind": kind}
            for kind, recorder in self.recorders.items()
            for item in recorder.versions(namespace=place)
        ]
        return [item for item in found if item["metadata"]["name"] != "bystander"]


def settled(item: dict[str, Any]) -> bool:
    """Whether a status is about this very spec, and all is done."""
    status = item.get("status", {})
    ready = [one["status"] for one in status.get("conditions", []) if one["type"] == "Ready"]
    return status.get("observedGeneration") == item["metadata"]["generation"] and ready == ["True"]
