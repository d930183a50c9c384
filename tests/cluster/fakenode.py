"""A kubelet that runs nothing: registers a Node and walks its pods to Ready.

    python -m tests.cluster.fakenode --kubeconfig FILE [--name fake-0] [--gpus 1]

Annotations of a pod (put them in the pod template) say how it shall behave; a changed
annotation on a live pod counts at once:

    fakenode/delay: "5"                 seconds from scheduled to Running
    fakenode/ready: "false"             runs but never gets Ready
    fakenode/waiting: ImagePullBackOff  its containers stay waiting, with this reason
    fakenode/exit: "1"                  its containers end with this code: CrashLoopBackOff,
                                        or Failed and Succeeded under restartPolicy Never
    fakenode/message: "..."             what such a container leaves as its termination message
    fakenode/term: "2"                  seconds from deletion to gone
    fakenode/address: 10.77.0.1         its address, where the test runs a process in its place

Other pod and node addresses are text from 198.18.0.0/15, which is reserved for benchmarks
and routed nowhere: nobody may dial them. Standard library only.
"""

from __future__ import annotations

import argparse
import datetime
import heapq
import http.client
import ipaddress
import itertools
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .api import Api, ApiError, Object

ADDRESSES = ipaddress.ip_network("198.18.0.0/15")
NODE_ADDRESS = "192.0.2.10"
# From scheduled to Running: long enough that a test can see the pod pending.
DEFAULT_DELAY_SECONDS = 0.3
# What the API server refused or did not answer is tried again, or a pod would hold its GPU for ever.
RETRY_SECONDS = 1
# The node controller calls a node dead after 60 s of silence (see control_plane.py).
BEAT_SECONDS = 10
# Only GPUs shall ever be scarce here, so that 5,000 services fit on one node.
CAPACITY = {"cpu": "20000", "memory": "100Ti", "pods": "20000", "ephemeral-storage": "100Ti"}
PREFIX = "fakenode/"


def utc(*, micro: bool = False) -> str:
    form = "%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ"
    return datetime.datetime.now(datetime.UTC).strftime(form)


class Later:
    """Calls functions at their time, on a few threads; a thousand pods need not a thousand timers."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.changed = threading.Condition()
        self.number = itertools.count()
        self.pool = ThreadPoolExecutor(8)
        threading.Thread(target=self._run, daemon=True).start()

    def call(self, seconds: float, function: Callable[[], None]) -> None:
        with self.changed:
            heapq.heappush(self.heap, (time.monotonic() + seconds, next(self.number), function))
            self.changed.notify()

    def _run(self) -> None:
        while True:
            with self.changed:
                wait = self.heap[0][0] - time.monotonic() if self.heap else None
                if wait is None or wait > 0:
                    self.changed.wait(wait)
                    continue
                function = heapq.heappop(self.heap)[2]
            self.pool.submit(self._call, function)

    def _call(self, function: Callable[[], None]) -> None:
        """A fault in here must not vanish in a future that nobody reads."""
        try:
            function()
        except Exception:
            traceback.print_exc()


class FakeNode:
    """One node and what it knows of its pods, by uid."""

    def __init__(self, api: Api, name: str, gpus: int) -> None:
        self.api = api
        self.name = name
        self.gpus = gpus
        self.capacity = CAPACITY | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
        self.later = Later()
        self.free = itertools.cycle(ADDRESSES.hosts())
        self.addresses: dict[str, str] = {}
        self.seen: dict[str, str] = {}
        self.lock = threading.Lock()

    def run(self) -> None:
        """Register, then follow the pods for ever; an API server that is away comes back."""
        self.later.call(0, self.beat)
        while True:
            try:
                selector = f"spec.nodeName={self.name}"
                for event, pod in self.api.watch("/api/v1/pods", fieldSelector=selector):
                    self.notice(event, pod)
            except (OSError, http.client.HTTPException, ValueError, ApiError) as error:
                print("watch:", error, file=sys.stderr, flush=True)
                time.sleep(1)

    def beat(self) -> None:
        try:
            self.register()
            self.api.merge(f"/api/v1/nodes/{self.name}/status", {"status": self.node_status()})
            self.renew_lease()
        except (OSError, http.client.HTTPException, ApiError) as error:
            print("beat:", error, file=sys.stderr, flush=True)
        finally:
            self.later.call(BEAT_SECONDS, self.beat)

    def register(self) -> None:
        """Create the Node unless it is there: also after somebody deleted it."""
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "type": "fake",
        }
        if self.gpus:
            labels["nvidia.com/gpu.present"] = "true"
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": labels}}
        try:
            self.api.request("POST", "/api/v1/nodes", node)
        except ApiError as error:
            if error.status != 409:
                raise

    def node_status(self) -> Object:
        pressure = ("MemoryPressure", "DiskPressure", "PIDPressure")
        return {
            "capacity": self.capacity,
            "allocatable": self.capacity,
            "conditions": [node_condition("Ready", "True"), *(node_condition(p, "False") for p in pressure)],
            "addresses": [
                {"type": "InternalIP", "address": NODE_ADDRESS},
                {"type": "Hostname", "address": self.name},
            ],
            "nodeInfo": {
                "kubeletVersion": "fakenode",
                "containerRuntimeVersion": "fake://0",
                "operatingSystem": "linux",
                "architecture": "amd64",
                "osImage": "fake",
                "kernelVersion": "0",
                **dict.fromkeys(("machineID", "systemUUID", "bootID", "kubeProxyVersion"), ""),
            },
        }

    def renew_lease(self) -> None:
        leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name},
            "spec": {
                "holderIdentity": self.name,
                "leaseDurationSeconds": 40,
                "renewTime": utc(micro=True),
            },
        }
        try:
            self.api.merge(f"{leases}/{self.name}", lease)
        except ApiError as error:
            if error.status != 404:
                raise
            self.api.request("POST", leases, lease)

    def notice(self, event: str, pod: Object) -> None:
        """Decide what is to be done about a pod, once for each thing asked of it."""
        metadata = pod["metadata"]
        uid = metadata["uid"]
        if event == "DELETED":
            self.addresses.pop(uid, None)
            self.seen.pop(uid, None)
            return
        asked = {k: v for k, v in metadata.get("annotations", {}).items() if k.startswith(PREFIX)}
        leaving = bool(metadata.get("deletionTimestamp"))
        wanted = "gone" if leaving else json.dumps(asked, sort_keys=True)
        if self.seen.get(uid) == wanted:
            return
        first = uid not in self.seen
        self.seen[uid] = wanted
        if leaving:
            self.later.call(float(asked.get("fakenode/term", 0)), lambda: self.delete(pod))
        else:
            delay = float(asked.get("fakenode/delay", DEFAULT_DELAY_SECONDS)) if first else 0
            self.later.call(delay, lambda: self.report(pod, asked))

    def delete(self, pod: Object) -> None:
        now = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        self.attempt(pod, "DELETE", pod_path(pod), {"apiVersion": "v1", "kind": "DeleteOptions", **now})

    def report(self, pod: Object, asked: dict[str, str]) -> None:
        # An answer that comes after the pod began to leave would be refused: no harm.
        status = {"status": pod_status(pod, asked, asked.get("fakenode/address") or self.address(pod))}
        self.attempt(pod, "PATCH", pod_path(pod) + "/status", status)

    def attempt(self, pod: Object, method: str, path: str, body: Object) -> None:
        """Send until it is taken, or until the pod is known to be gone."""
        content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            self.api.request(method, path, body, content_type)
        except (OSError, http.client.HTTPException, ApiError) as error:
            print(f"{method} {path}: {error}", file=sys.stderr, flush=True)
            gone = isinstance(error, ApiError) and error.status == 404
            if not gone and pod["metadata"]["uid"] in self.seen:
                self.later.call(RETRY_SECONDS, lambda: self.attempt(pod, method, path, body))

    def address(self, pod: Object) -> str:
        with self.lock:
            uid = pod["metadata"]["uid"]
            if uid not in self.addresses:
                self.addresses[uid] = str(next(self.free))
            return self.addresses[uid]


def node_condition(kind: str, status: str) -> Object:
    reason = {"reason": "KubeletReady" if kind == "Ready" else "Sufficient", "message": "fakenode"}
    return {
        "type": kind,
        "status": status,
        **reason,
        "lastHeartbeatTime": utc(),
        "lastTransitionTime": utc(),
    }


def pod_path(pod: Object) -> str:
    metadata = pod["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


def pod_status(pod: Object, asked: dict[str, str], address: str) -> Object:
    """What a kubelet would report of a pod that behaves as its annotations ask."""
    now, spec = utc(), pod["spec"]
    phase, state, restarts = behaviour(asked, spec.get("restartPolicy", "Always"), now)
    ready = "running" in state and asked.get("fakenode/ready") != "false"
    done = {"terminated": terminated(0, now)}

    def container(template: Object, state: Object, ready: bool) -> Object:
        last = {"lastState": {"terminated": terminated(restarts, now)}} if restarts else {}
        return {
            "name": template["name"],
            "image": template["image"],
            "imageID": "sha256:0",
            "containerID": f"fake://{pod['metadata']['uid']}/{template['name']}",
            "ready": ready,
            "started": ready,
            "restartCount": 3 if restarts else 0,
            "state": state,
            **last,
        }

    def init_container(template: Object) -> Object:
        sidecar = template.get("restartPolicy") == "Always"
        return container(template, state, ready) if sidecar else container(template, done, True)

    true = ("PodScheduled", "PodReadyToStartContainers", "Initialized")
    return {
        "phase": phase,
        "hostIP": NODE_ADDRESS,
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": pod["status"].get("startTime", now),
        "conditions": [
            *(pod_condition(kind, True) for kind in true),
            *(pod_condition(kind, ready) for kind in ("ContainersReady", "Ready")),
        ],
        "containerStatuses": [container(template, state, ready) for template in spec["containers"]],
        "initContainerStatuses": [init_container(template) for template in spec.get("initContainers", [])],
    }


def behaviour(asked: dict[str, str], restart_policy: str, now: str) -> tuple[str, Object, int]:
    """(phase, state of the containers, exit code of their last life or 0)."""
    if reason := asked.get("fakenode/waiting"):
        return "Pending", {"waiting": {"reason": reason, "message": "asked for by annotation"}}, 0
    if "fakenode/exit" not in asked:
        return "Running", {"running": {"startedAt": now}}, 0
    code = int(asked["fakenode/exit"])
    if restart_policy == "Always":
        return "Running", {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}, code
    left = {"message": asked["fakenode/message"]} if "fakenode/message" in asked else {}
    return "Failed" if code else "Succeeded", {"terminated": terminated(code, now) | left}, 0


def terminated(code: int, now: str) -> Object:
    reason = "Error" if code else "Completed"
    return {"exitCode": code, "reason": reason, "startedAt": now, "finishedAt": now}


def pod_condition(kind: str, value: bool) -> Object:
    return {"type": kind, "status": str(value), "lastTransitionTime": utc(), "lastProbeTime": None}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kubeconfig", required=True, type=Path)
    parser.add_argument("--name", default="fake-0")
    parser.add_argument("--gpus", type=int, default=0)
    arguments = parser.parse_args()
    FakeNode(Api(arguments.kubeconfig), arguments.name, arguments.gpus).run()


if __name__ == "__main__":
    main()
