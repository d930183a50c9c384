"""`make demo`: from nothing to a secured image on a real node, and the proof that nothing is open.

Every line of the last screen comes from something that was done just then; a line that does
not hold ends the demo with exit code 1. DEMO_KEEP=1 leaves everything running.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from cluster.control_plane import CommandFailed
from cluster.node import Node

from . import proof, scene


def main() -> int:
    """Bring everything up, apply the resource, show the proof."""
    began = time.monotonic()
    node = scene.node()
    keep = os.environ.get("DEMO_KEEP") == "1"
    say("node", "control plane, kubelet, containerd, Calico, CoreDNS (the first time: a quarter of an hour of builds)")
    node.start(stay=keep)
    try:
        say("install", "Traefik in dmz, the operator, a tiny random model, a user, a certificate")
        stage = scene.prepare(node)
        say("apply", "kubectl apply -f crds/samples/studio.yaml")
        applied = time.monotonic()
        node.apply(scene.resource())
        scene.wait(lambda: stage.ready().get("status") == "True" and enforced(stage), "the service is ready")
        print(f"\nReady {time.monotonic() - applied:.1f} s after apply\n")
        print(node.kubectl("get", "zis", "-A"))
        target = Path(tempfile.gettempdir()) / "zimage-demo.png"
        failed = [name for name, hold in proof.LINES.items() if not show(name, lambda hold=hold: hold(stage, target))]
        if not keep:
            failed += (
                [] if show("kubectl delete zis leaves nothing", lambda: proof.nothing_is_left(stage)) else ["delete"]
            )
    finally:
        if keep:
            print(how_to_reach(node))
        else:
            node.stop()
    print(
        f"\n{'FAILED: ' + ', '.join(failed) if failed else 'all lines hold'}, {time.monotonic() - began:.0f} s in all"
    )
    return 1 if failed else 0


def how_to_reach(node: Node) -> str:
    """The commands for a demo that was left running; the password lies in a file that only its owner reads."""
    inside = f"{sys.executable} -m tests.cluster exec {node.directory} --"
    address = f"--cacert {node.directory}/demo-ca.crt --resolve {scene.HOST}:443:{scene.edge.ADDRESS}"
    login = f'-u "{scene.USER}:$(cat {node.directory}/{scene.PASSWORD_FILE})"'
    order = """-H 'Accept: image/png' --json '{"prompt": "a red fox in the snow", "size": "256x256"}' -o fox.png"""
    return f"""
left running; its addresses mean something inside its namespaces only
look at it:     {inside} kubectl get zis -A
make an image:  {inside} curl {address} {login} {order} https://{scene.HOST}/v1/images/generations
end it:         make cluster-down CLUSTER_DIR={node.directory}"""


def enforced(stage: scene.Scene) -> bool:
    """Whether the isolation probe has reported."""
    conditions = stage.service()["status"]["conditions"]
    return any(item["type"] == "NetworkPolicyEnforced" and item["status"] == "True" for item in conditions)


def show(name: str, hold: proof.Check) -> bool:
    """Do one thing and print what came of it."""
    try:
        evidence = hold()
    except (AssertionError, OSError, CommandFailed, Image.UnidentifiedImageError) as error:
        print(f"  ✗ {name}: {error}", flush=True)
        return False
    print(f"  ✓ {name}: {evidence}", flush=True)
    return True


def say(what: str, more: str) -> None:
    """Announce a step."""
    print(f"[{what}] {more}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
