"""The rendered files in force: a client, a DMZ host with nginx, an inner host, and the container on it.

    client ─ 10.77.0.0/16 ─ DMZ host ─ 10.78.0.0/24 ─ inner host ─ zimage0 ─ worker
       └──────────── 10.79.0.0/24 ──────────────────────┘      (a way that the firewall has to close)

nginx, nftables, the door and the worker are the real programs with the rendered files as they are. No container
engine runs here: the worker is a process in a namespace with the address that compose.yaml gives it, and the
environment of compose.yaml but for the model's place and the device.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import yaml

from cluster.pki import Pki
from edge.client import PASSWORD, USER, Edge
from edge.requests_table import SERVICES
from issuer import Issuer
from support import ROOT, smallest
from zimage_operator.__main__ import DEFAULTS, standalone_order
from zimage_operator.edge import standalone

from .places import PYTHON, Place, Program, cable

CLIENT, DMZ, DMZ_INSIDE, INNER = "10.77.0.2", "10.77.0.1", "10.78.0.1", "10.78.0.2"
# All of it is the client: each test has addresses of its own. `narrow` admits the last part.
POOL, ADMITTED, INSIDE = "10.77.128.0/17", "10.77.255.0/24", "10.77.255.7"
WORKER, GATEWAY = "172.31.78.2", "172.31.78.1"
# Generous, and asserted nowhere as a speed: beside a whole cluster torch alone takes minutes to load.
WAIT_SECONDS, START_SECONDS = 120, 280
HOSTS = standalone.Hosts(inner=INNER, dmz=DMZ_INSIDE)


def rendered(service: str) -> dict[str, str]:
    """The files for one of the table's services."""
    parts = SERVICES[service]
    ingress = {"host": f"{service}.example.org", "className": "nginx", "tls": {"secretName": "tls"}, **parts["ingress"]}
    if "allowedSourceRanges" in ingress:
        ingress["allowedSourceRanges"] = [ADMITTED]
    # Where tokens are taken, the worker's own too.
    token = {"token": {"enabled": True, "signingKeySecretName": "signing"}} if "jwt" in parts["auth"] else {}
    body = smallest(service, auth={**parts["auth"], **token}, ingress=ingress, gpu={"count": 0})
    return standalone.files(standalone_order(body, DEFAULTS, HOSTS))


class Published(Mapping[str, str]):
    """The hosts by service. There is one nginx: to ask for a host is to publish that service, by a reload."""

    def __init__(self, publish: Callable[[str], None]) -> None:
        self.publish = publish

    def __getitem__(self, service: str) -> str:
        self.publish(service)
        return f"{service}.example.org"

    def __iter__(self) -> Iterator[str]:
        return iter(SERVICES)

    def __len__(self) -> int:
        return len(SERVICES)

    def values(self) -> Any:
        return [f"{service}.example.org" for service in SERVICES]


class Lab:
    """The four places and the programs in them."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.files = {service: rendered(service) for service in SERVICES}
        self.issuer = Issuer()
        self.pki = Pki(folder)
        self.published = ""
        self.client, self.dmz, self.inner, self.container = map(Place, ("client", "dmz", "inner", "container"))
        self.worker: Program
        self.door: Program
        self.nginx: Program
        pool = ip_address(POOL.partition("/")[0])
        self.sources = (str(pool + number) for number in range(1, 0x7E00))

    def up(self) -> Lab:
        """Bring everything up, in the order of the README."""
        self.connect()
        self.container.overlay("/etc")
        self.write_credentials()
        self.load("inner", self.inner, "any")
        self.start_worker()
        self.open_door()
        self.prepare_nginx()
        self.load("dmz", self.dmz, "any")
        self.publish("any")
        return self

    def end(self) -> None:
        """Nothing is left: all of it was inside."""
        for place in (self.client, self.dmz, self.inner, self.container):
            place.end()

    # --- networks -------------------------------------------------------------------------

    def connect(self) -> None:
        """Cables and addresses."""
        cable(self.client, "dmz0", self.dmz, "out0")
        cable(self.dmz, "in0", self.inner, "dmz0")
        cable(self.client, "inner0", self.inner, "client0")
        cable(self.inner, "worker0", self.container, "eth0")
        for place, device, address in (
            (self.client, "dmz0", f"{CLIENT}/16"), (self.dmz, "out0", f"{DMZ}/16"),
            (self.dmz, "in0", f"{DMZ_INSIDE}/24"), (self.inner, "dmz0", f"{INNER}/24"),
            (self.client, "inner0", "10.79.0.1/24"), (self.inner, "client0", "10.79.0.2/24"),
            (self.container, "eth0", f"{WORKER}/29"),
        ):  # fmt: skip
            place.run("ip", "address", "add", address, "dev", device)
        self.client.run("ip", "route", "add", "local", POOL, "dev", "lo")
        # As if client and inner host were in one network: the inner host's own addresses are one hop away.
        for there in (f"{INNER}/32", "172.31.78.0/29"):
            self.client.run("ip", "route", "add", there, "via", "10.79.0.2")
        self.inner.run("ip", "link", "add", "zimage0", "type", "bridge")
        self.inner.run("ip", "link", "set", "worker0", "master", "zimage0")
        self.inner.run("ip", "address", "add", f"{GATEWAY}/29", "dev", "zimage0")
        self.inner.run("ip", "link", "set", "zimage0", "up")
        # As Docker sets it; so nothing but rules keeps a packet from being handed on.
        self.inner.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.container.run("ip", "route", "add", "default", "via", GATEWAY)

    def load(self, side: str, place: Place, service: str) -> None:
        """Put one host's rules in force."""
        place.run("nft", "-f", "-", input=self.files[service][f"{side}/nftables.conf"])

    # --- the inner host -------------------------------------------------------------------

    def write_credentials(self) -> None:
        """What the README has one make, where compose.yaml mounts it."""
        self.container.run("mkdir", "-p", "/etc/zimage/basic", "/etc/zimage/jwks", "/etc/zimage/token")
        self.htpasswd = f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n"
        self.container.path("/etc/zimage/basic/htpasswd").write_text(self.htpasswd)
        self.container.path("/etc/zimage/jwks/jwks.json").write_bytes(self.issuer.jwks())
        self.container.path("/etc/zimage/token/key").write_text("canary-signing-key-0123456789abcdef\n")

    def environment(self) -> dict[str, str]:
        """The environment of compose.yaml, but for what a container would have and this process has not."""
        compose = yaml.safe_load(self.files["any"]["inner/compose.yaml"])
        assert compose["services"]["worker"]["networks"]["inner"]["ipv4_address"] == WORKER
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("ZIMAGE_")},
            **{name: text.replace("$$", "$") for name, text in compose["services"]["worker"]["environment"].items()},
            "PYTHONPATH": str(ROOT / "worker"),
            "OMP_NUM_THREADS": "1",
            "ZIMAGE_DEVICE": "cpu",
            "ZIMAGE_MODEL_PATH": str(self.model),
            "ZIMAGE_MAX_STEPS": "1000",
            # One worker behind all of the table's hosts.
            "ZIMAGE_ALLOWED_HOSTS": ",".join(f"{service}.example.org" for service in SERVICES),
        }

    def start_worker(self) -> None:
        """The worker, in place of its container; not waiting for it."""
        log = self.folder / "worker.log"
        self.worker = self.container.start(log, PYTHON, "-m", "zimage_worker", "serve", env=self.environment())

    def worker_ready(self) -> bool:
        """Whether it serves; a process that has ended never will."""
        self.worker.check()
        with self.container.inside(), contextlib.suppress(httpx.TransportError):
            return httpx.get("http://127.0.0.1:9090/health/ready", timeout=10).status_code == 200
        return False

    def open_door(self) -> None:
        """The door, with the file and the arguments of compose.yaml."""
        (self.folder / "door.py").write_text(self.files["any"]["inner/door.py"])
        compose = yaml.safe_load(self.files["any"]["inner/compose.yaml"])
        command = compose["services"]["door"]["command"]
        self.door = self.inner.start(self.folder / "door.log", PYTHON, self.folder / "door.py", *command)

    def metric(self, name: str) -> float:
        """A figure of the worker."""
        with self.container.inside():
            text = httpx.get("http://127.0.0.1:9090/metrics", timeout=30).text
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)

    def worker_log(self) -> str:
        """The worker's logs, both of them."""
        return (self.folder / "worker.log").read_text(errors="replace")

    def stop_worker(self) -> None:
        """As `docker compose stop` does."""
        self.worker.stop(signal.SIGTERM)

    # --- the DMZ host ---------------------------------------------------------------------

    def prepare_nginx(self) -> None:
        """Folders of this host alone where nginx.conf names them, certificates and users."""
        self.dmz.overlay("/etc")
        for folder in ("/var/log/nginx", "/var/lib/nginx", "/run"):
            self.dmz.run("mount", "-t", "tmpfs", "tmpfs", folder)
        for service in SERVICES:
            home = self.dmz.path(f"/etc/nginx/zimage/{service}")
            home.mkdir(parents=True)
            self.certify(service)
            (home / "htpasswd").write_text(self.htpasswd)

    def certify(self, service: str) -> None:
        """A new certificate, in place."""
        self.pki.server(service, [f"{service}.example.org"])
        for ending in ("crt", "key"):
            content = (self.folder / f"{service}.{ending}").read_bytes()
            self.dmz.path(f"/etc/nginx/zimage/{service}/tls.{ending}").write_bytes(content)

    def publish(self, service: str) -> None:
        """Make nginx serve one service: the rendered file, tested, and a reload."""
        if service == self.published:
            return
        self.dmz.path("/etc/nginx/nginx.conf").write_text(self.files[service]["dmz/nginx.conf"])
        self.dmz.run("nginx", "-t")
        if self.published:
            self.reload()
        else:
            self.nginx = self.dmz.start(self.folder / "nginx.log", "nginx", "-g", "daemon off;")
            wait(self.serving, "nginx listens")
        self.published = service

    def reload(self) -> None:
        """Renew nginx, and wait until no old process takes a connection."""
        before = self.nginx_workers()
        self.dmz.run("nginx", "-s", "reload")
        wait(lambda: not before & (now := self.nginx_workers()) and now, "new processes of nginx alone")

    def nginx_workers(self) -> set[str]:
        """The processes of nginx that take connections."""
        shown = self.dmz.run("ps", "-eo", "pid=,args=").splitlines()
        return {line.split()[0] for line in shown if line.endswith("nginx: worker process")}

    def serving(self) -> bool:
        """Whether nginx takes connections."""
        self.nginx.check()
        return self.reaches(self.client, DMZ, 443)

    def access_log(self) -> str:
        """nginx's own log."""
        return self.dmz.path("/var/log/nginx/zimage.log").read_text(errors="replace")

    # --- clients --------------------------------------------------------------------------

    def reaches(self, place: Place, address: str, port: int, source: str = "", seconds: float = 5) -> bool:
        """Whether a TCP connection from `place` opens."""
        with place.inside(), contextlib.suppress(OSError):
            socket.create_connection((address, port), seconds, (source, 0)).close()
            return True
        return False

    def edge(self) -> Edge:
        """What the table of requests asks."""
        return Edge(
            name="standalone",
            address=DMZ,
            https_port=443,
            http_port=80,
            ca=self.pki.ca_crt,
            hosts=Published(self.publish),
            token=self.issuer.token,
            edge_log=self.access_log,
            worker_log=self.worker_log,
            metric=self.metric,
            sources=self.sources,
            inside=INSIDE,
        )


def wait(what: Callable[[], Any], message: str, seconds: float = WAIT_SECONDS) -> Any:
    """Until `what` gives something true."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, message
        time.sleep(0.05)
    return found
