"""`helm test`: one service without a worker, made, seen reported by the operator, and taken away again.

It shows that the API, the rights, the admission policy, the operator's loop and the garbage collector work together.
It needs no GPU, no model and no edge, and so says nothing about them.
"""

import os
import sys
import time

from kubernetes import client, config

NAME, PLACE = "helm-test", os.environ["PLACE"]
KIND = {"group": "zimage.dev", "version": "v1alpha1", "namespace": PLACE, "plural": "zimageservices"}
SERVICE = {
    "apiVersion": "zimage.dev/v1alpha1",
    "kind": "ZImageService",
    "metadata": {"name": NAME},
    "spec": {
        "suspend": True,
        "model": {"persistentVolumeClaim": {"claimName": "none"}},
        "auth": {"basic": {"generate": True}},
    },
}
# A leader that has just gone is followed within 15 s; the rest is patience with a busy cluster.
PATIENCE_SECONDS = float(os.environ.get("PATIENCE_SECONDS", "60"))


def main() -> int:
    """Give the exit code."""
    config.load_config()
    services, policies = client.CustomObjectsApi(), client.NetworkingV1Api()
    services.create_namespaced_custom_object(**KIND, body=SERVICE)
    try:
        said = wait(lambda: suspended(services.get_namespaced_custom_object(**KIND, name=NAME)))
        walls = names(policies)
    finally:
        services.delete_namespaced_custom_object(**KIND, name=NAME)
    if not said:
        return failed("no status: is an operator ready, and does it serve this namespace?")
    if NAME not in walls:
        return failed("the service is reported, but its NetworkPolicy is not there")
    if not wait(lambda: NAME not in names(policies)):
        return failed("the service is gone, but its NetworkPolicy is still there")
    print(f"a service in {PLACE} was walled in, reported as Suspended, and left nothing behind")
    return 0


def suspended(service: dict) -> bool:
    """Whether the operator says that the service is ready, which here means suspended."""
    conditions = service.get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["reason"] == "Suspended" for item in conditions)


def names(policies: client.NetworkingV1Api) -> set[str]:
    """The NetworkPolicies of the namespace."""
    return {item.metadata.name for item in policies.list_namespaced_network_policy(PLACE).items}


def wait(what) -> bool:
    """Ask until it is true, or until there is no more patience."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (answer := what()) and time.monotonic() < end:
        time.sleep(0.5)
    return answer


def failed(why: str) -> int:
    """Say why not."""
    print(f"failed in {PLACE}: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
