"""README.md: the order of steps, and what the target cannot give."""

from __future__ import annotations

import shlex

from ...names import WORKER_UID
from ...spec import HubSource, ImageSource
from .order import WORKER_ADDRESS, Order
from .template import filled

ONE_PICTURE = """\
client ──443──▶ nginx ──127.0.0.1:7860──▶ door ──▶ worker, on a network without a way out
                └ TLS, ranges, rate, credentials   └ asks for credentials again; 9090 for this host alone"""
TWO_PICTURE = """\
client ──443──▶ nginx on {dmz} ──▶ door on {inner}:7860 ──▶ worker, on a network without a way out
                └ TLS, ranges, rate, credentials   └ asks for credentials again; 9090 for the inner host alone"""


def text(order: Order) -> str:
    """Write the file."""
    hosts, service = order.hosts, order.service
    values = {
        "HEAD": order.head,
        "NAME": service.name,
        "HOST": order.ingress.host,
        "PICTURE": ONE_PICTURE if hosts.together else TWO_PICTURE.format(dmz=hosts.dmz, inner=hosts.inner),
        "PLACES": "; here both are one host" if hosts.together else f": {hosts.inner} and {hosts.dmz}",
        "TOOLKIT": ", and the NVIDIA Container Toolkit" if service.spec.gpu.count else "",
        "INNER_STEPS": numbered(inner_steps(order)),
        "DMZ_STEPS": numbered(dmz_steps(order)),
        "DRAIN_SECONDS": service.spec.rollout.drain_seconds,
        "MISSING": "\n".join(f"| {asked} | {given} |" for asked, given in missing(order)),
    }
    return filled("README.md", values)


def numbered(steps: list[str]) -> str:
    """Number the steps; an empty one is none."""
    return "\n".join(f"{number}. {step}" for number, step in enumerate(filter(None, steps), 1))


def step(title: str, *commands: str) -> str:
    """Write one step with a block of commands."""
    return "\n".join([title, "   ```sh", *(f"   {command}" for command in commands), "   ```"])


def inner_steps(order: Order) -> list[str]:
    """Give the steps on the host with the GPU."""
    auth, folder = order.service.auth, order.folder
    wanted = {"basic": auth.basic, "jwks": auth.jwt, "token": auth.tokens, "certificate": True}
    folders = [folder, *(f"{folder}/{name}" for name, needed in wanted.items() if needed)]
    return [
        pinning(order),
        step(
            f"The folders, for root and the worker (group {WORKER_UID}) alone:",
            f"install -d -m 0750 -g {WORKER_UID} {' '.join(folders)}",
        ),
        credentials(order),
        model(order),
        f"The public certificate, never its key: `{folder}/certificate/tls.crt`. The worker's posture tells its end.",
        f"The firewall, **before** the worker: {firewall('inner')}",
        "Start it, in `inner/`: `docker compose up -d`. `docker compose ps` says healthy once the model is loaded;\n"
        f"   its metrics are for this host alone: `curl http://{WORKER_ADDRESS}:9090/metrics`.",
    ]


def firewall(folder: str) -> str:
    """Say how the rules of one host are put in force: one of the two ways."""
    return (
        f"`nft -f {folder}/nftables.conf`, and where your system loads rules at its start;\n"
        f"   or `sh {folder}/ufw.sh`, where ufw is the firewall."
    )


def credentials(order: Order) -> str:
    """Say how the worker's credentials come to be."""
    auth, folder, commands = order.service.auth, order.folder, []
    if auth.basic:
        commands.append(f"htpasswd -B -C 10 -c {folder}/basic/htpasswd alice  # asks for her password")
    if auth.jwt and auth.jwt.jwks.url:
        file = f"{folder}/jwks/jwks.json"
        commands.append("# By a timer: the worker reaches nobody.")
        commands.append(f"curl -fsS -o {file}.new {shlex.quote(auth.jwt.jwks.url)} && mv {file}.new {file}")
    elif auth.jwt:
        commands.append(f"cp jwks.json {folder}/jwks/jwks.json  # the issuer's key set")
    if auth.tokens:
        commands.append(f"openssl rand -base64 48 > {folder}/token/key")
    if not commands:
        return ""
    commands.append(f"chgrp -R {WORKER_UID} {folder} && chmod -R g+rX,o= {folder}")
    return step("The credentials, as files:", *commands)


def model(order: Order) -> str:
    """Say where the weights have to be."""
    source = order.service.model.source
    if isinstance(source, ImageSource):
        return "The weights come as an image (image volumes need Docker 28): `docker compose pull`, in `inner/`."
    place = f"/srv/zimage/{order.service.name}/model"
    if isinstance(source, HubSource):
        return (
            f"The weights, readable for group {WORKER_UID}:\n"
            f"   `zimage-worker fetch --repo {source.repo} --revision {source.revision} --to {place}`"
            f"{f' (HF_ENDPOINT={source.endpoint})' if source.endpoint else ''} makes them."
        )
    below = f"{place}/{source.path}" if source.path else place
    return (
        f"The weights, readable for group {WORKER_UID}: `{below}/model_index.json` and what belongs to it.\n"
        f"   `zimage-worker fetch --repo R --revision SHA --to {below}` makes them."
    )


def pinning(order: Order) -> str:
    """Say how the image is pinned, where the manifest names it by a tag only."""
    if order.pinned:
        return ""
    return (
        f"**Pin the image.** `{order.image}` is a tag, and tags can be moved: write its digest into the manifest\n"
        "   (`spec.image.digest`; `docker buildx imagetools inspect` prints it) and render again."
    )


def dmz_steps(order: Order) -> list[str]:
    """Give the steps on the host with nginx."""
    folder, ranges = order.edge_folder, order.ingress.allowed_source_ranges
    users = step(
        "The users' file, as on the inner host: nginx checks it before anything goes inside (bcrypt, not argon2):",
        f"install -m 0640 -g www-data htpasswd {folder}/htpasswd",
    )
    stranger = "200, for auth.mode is None" if order.service.auth.in_force == "None" else "401"
    return [
        step(
            "The certificate and its key, for nginx's master alone:",
            f"install -d -m 0750 -g www-data {folder}",
            f"install -m 0600 tls.crt tls.key {folder}/",
        ),
        users if order.checks_passwords else "",
        f"The firewall, **before** nginx: {firewall('dmz')}\n"
        f"   It admits {', '.join(ranges) or 'everybody'} to 80 and 443. What else may come is up to your own rules.",
        "`install -m 0644 dmz/nginx.conf /etc/nginx/nginx.conf && nginx -t && systemctl restart nginx`",
        step(
            "Look from outside, as a stranger:",
            f"curl -sS -o /dev/null -w '%{{http_code}}\\n' https://{order.ingress.host}/v1/models  # {stranger}",
            f"nc -zvw 5 {'THIS-HOST' if order.hosts.together else order.hosts.inner} 7860  # must fail",
        ),
    ]


def missing(order: Order) -> list[tuple[str, str]]:
    """Give what the manifest asks for and this target has not, with who gives it."""
    spec, auth = order.service.spec, order.service.auth
    # Without a name of its own it would be the one that cert-manager fills.
    secret = (order.ingress.tls and order.ingress.tls.secret_name) or f"{order.service.name}-tls"
    told: list[tuple[object, str, str]] = [
        (
            True,
            "`network`, and the proof that it holds",
            "the two firewalls; nobody probes them: look yourself, as above",
        ),
        (True, "the status", "`docker compose ps`; `/posture` and `/metrics` on port 9090"),
        (True, "repair of what is changed by hand", "nobody: `sha256sum -c rendered.sha256`, then render again"),
        (True, f"`ingress.tls` (the Secret `{secret}`)", "your certificate tool, and `nginx -s reload`"),
        (True, "a limit for the whole /64 of an IPv6 client", "the worker; nginx counts single addresses"),
        (spec.replicas > 1, f"`replicas: {spec.replicas}`", "one worker"),
        (spec.autoscaling, "`autoscaling`", "one worker"),
        (spec.stopped, "`suspend`, `replicas: 0`", "`scale: 0`: no worker, and nginx answers 503"),
        (spec.gpu.claimed, "`gpu.deviceClassName`", "any NVIDIA device of the host"),
        (spec.scheduling.node_selector or spec.scheduling.tolerations, "`scheduling`", "you choose the host"),
        (order.service.generated, "`auth.basic.generate`", "you make the user, as above"),
        (auth.jwt and auth.jwt.jwks.url, "`auth.jwt.jwks.url`", "this host fetches the keys, as above"),
        (order.asks, "a password check at the edge", "the worker, whom nginx asks before it forwards anything"),
    ]
    return [(asked, given) for holds, asked, given in told if holds]
