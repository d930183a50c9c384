"""The lines of the demo's last screen: each does something for real, and says what came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from .scene import HOST, NAMESPACE, USER, Scene, wait

Check = Callable[[], str]
WORKER = f"studio.{NAMESPACE}.svc/7860"
HOLE = [{"op": "add", "path": "/spec/ingress/0/from/-", "value": {"namespaceSelector": {}}}]


def strangers_are_refused(scene: Scene, _: Path) -> str:
    """No credentials."""
    # The edge takes a new route in a moment after it was published: until then it knows no such host.
    wait(lambda: scene.curl()[0] != 404, "the edge knows the route", 60)
    code, _rest = scene.curl()
    assert code == 401, code
    return "401"


def a_wrong_password_is_refused(scene: Scene, _: Path) -> str:
    """The right user, a wrong password."""
    code, _rest = scene.curl("-u", f"{USER}:wrong")
    assert code == 401, code
    return "401"


def an_image_comes_back(scene: Scene, target: Path) -> str:
    """The right password: a PNG of the asked size."""
    code, rest = scene.image(target)
    assert code == 200, f"{code} {rest}"
    with Image.open(target) as image:
        assert (image.format, image.size) == ("PNG", (256, 256)), (image.format, image.size)
    return f"200, 256x256 PNG in {target}"


def plain_http_is_redirected(scene: Scene, _: Path) -> str:
    """Nothing is served in the clear."""
    code, where = scene.curl(url=f"http://{HOST}/v1/models")
    assert code in (301, 302, 308), f"{code} {where}"
    assert where.startswith("https://"), where
    return f"{code} to {where}"


def dmz_reaches(scene: Scene, _: Path) -> str:
    """The allowed namespace."""
    wait(lambda: scene.from_pod("dmz", WORKER), "a connection", 60)
    return "connected"


def others_do_not(scene: Scene, _: Path) -> str:
    """Any other namespace, and the operator's own."""
    assert not scene.from_pod("elsewhere", WORKER), "connected"
    assert not scene.from_pod("zimage-system", WORKER), "connected from the operator's namespace"
    return "no connection from elsewhere, nor from zimage-system"


def nothing_gets_out(scene: Scene, _: Path) -> str:
    """The worker asks for a name and for Traefik."""
    code = (
        "import socket\n"
        "def free(what):\n"
        "    try: what(); return True\n"
        "    except OSError: return False\n"
        "socket.setdefaulttimeout(3)\n"
        "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "u.sendto(b'\\0' * 12, ('10.96.0.10', 53))\n"
        "print(free(lambda: socket.create_connection(('10.96.0.80', 443), 3)), free(lambda: u.recv(512)),\n"
        "      free(lambda: socket.create_connection(('10.96.0.10', 53), 3)))\n"
    )
    command = ["kubectl", "-n", NAMESPACE, "exec", "deploy/studio", "--", "python3", "-c", code]
    answer = scene.node.run(command, check=False)
    assert answer.stdout.strip() == "False False False", answer.stdout + answer.stderr
    # The same question from a pod without a policy is answered: the network itself works.
    wait(lambda: scene.from_pod("elsewhere", "10.96.0.10/53"), "a free pod reaches DNS", 60)
    return "no TCP, no DNS (a free pod has both)"


def a_wider_policy_is_narrowed(scene: Scene, _: Path) -> str:
    """A hole by hand, and who made it."""
    policy = ["netpol", "studio", "-n", NAMESPACE]
    patch = ["--type=json", "--field-manager=mallory", "-p", json.dumps(HOLE)]
    scene.node.kubectl("patch", *policy, *patch)
    began = time.monotonic()
    wait(lambda: len(scene.node.get(*policy)["spec"]["ingress"][0]["from"]) == 1, "the policy is narrow again", 60)
    seconds = time.monotonic() - began
    wait(
        lambda: "mallory" in scene.node.kubectl("-n", NAMESPACE, "describe", "zis", "studio"),
        "an event names mallory",
        60,
    )
    return f"narrow again after {seconds:.1f} s, the event names mallory"


def a_deleted_policy_is_back(scene: Scene, _: Path) -> str:
    """The policy deleted."""
    policy = ["netpol", "studio", "-n", NAMESPACE]
    before = scene.node.get(*policy)["metadata"]["uid"]
    scene.node.kubectl("delete", *policy, "--wait=false")
    began = time.monotonic()

    def back() -> bool:
        found = scene.node.kubectl("get", *policy, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}")
        return bool(found) and found != before

    wait(back, "the policy is back", 60)
    return f"back after {time.monotonic() - began:.1f} s"


def nothing_is_left(scene: Scene) -> str:
    """The resource deleted."""
    scene.node.kubectl("delete", "zis", "studio", "-n", NAMESPACE)
    kinds = "netpol,sa,cm,deploy,rs,pods,svc,ing,middleware,tlsoption"
    selector = "app.kubernetes.io/managed-by=zimage-operator,app.kubernetes.io/instance=studio"
    wait(
        lambda: not scene.node.kubectl("-n", NAMESPACE, "get", kinds, "-l", selector, "-o", "name").strip(),
        "nothing is left",
    )
    return "no object of it is left"


LINES: dict[str, Callable[[Scene, Path], str]] = {
    "without credentials": strangers_are_refused,
    "with a wrong password": a_wrong_password_is_refused,
    "with the right password": an_image_comes_back,
    "over plain HTTP": plain_http_is_redirected,
    "a pod in dmz to 7860": dmz_reaches,
    "a pod elsewhere to 7860": others_do_not,
    "the worker to the outside": nothing_gets_out,
    "the policy widened by hand": a_wider_policy_is_narrowed,
    "the policy deleted": a_deleted_policy_is_back,
}
