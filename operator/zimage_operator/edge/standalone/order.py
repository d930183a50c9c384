"""What is to be rendered: the service, its image, its worker's settings, and the addresses of the two hosts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from ...errors import InvalidSpec
from ...names import HTTP_PORT
from ...spec import DEFAULT_DEVICE, SUBDOMAIN, Gpu, Ingress, ZImageService

LOOPBACK = "127.0.0.1"
# The worker's own network on the inner host: no packet of it leaves the host, so only that host may not have it.
SUBNET, GATEWAY_ADDRESS, WORKER_ADDRESS = "172.31.78.0/29", "172.31.78.1", "172.31.78.2"
BRIDGE = "zimage0"
# The DRA driver's name for what Docker calls the driver nvidia.
DEVICE_CLASS = "gpu.nvidia.com"


@dataclass(frozen=True)
class Hosts:
    """Addresses: where the inner host listens, and from where the DMZ host's nginx comes."""

    inner: str
    dmz: str

    @property
    def together(self) -> bool:
        """Whether nginx and the worker share one host; then nothing but loopback lies between them."""
        return self.inner == LOOPBACK

    @property
    def upstream(self) -> str:
        """Where nginx finds the worker."""
        return f"[{self.inner}]:{HTTP_PORT}" if ":" in self.inner else f"{self.inner}:{HTTP_PORT}"


ONE_HOST = Hosts(LOOPBACK, LOOPBACK)


@dataclass(frozen=True)
class Order:
    """Everything that a file can depend on."""

    service: ZImageService
    image: str
    # The worker's environment as the operator would set it in the cluster.
    settings: Mapping[str, str]
    hosts: Hosts

    @property
    def ingress(self) -> Ingress:
        """What publishes the service; order() lets none without it pass."""
        assert self.service.spec.ingress
        return self.service.spec.ingress

    @property
    def folder(self) -> str:
        """Where the worker's credentials lie, on the inner host."""
        return f"/etc/zimage/{self.service.name}"

    @property
    def edge_folder(self) -> str:
        """Where nginx's certificate and users lie: apart, for on one host neither may read what is the other's."""
        return f"/etc/nginx/zimage/{self.service.name}"

    @property
    def asks(self) -> bool:
        """Whether nginx asks the worker who a caller is, because a token may come (as Traefik: decision 0221)."""
        auth = self.service.auth
        return auth.in_force != "None" and (auth.in_force != "Basic" or auth.tokens)

    @property
    def checks_passwords(self) -> bool:
        """Whether nginx itself checks passwords, before anything reaches the inner host."""
        return self.service.auth.in_force == "Basic" and not self.asks

    @property
    def pinned(self) -> bool:
        """Whether the image is the one that was tried, and cannot become another."""
        return "@sha256:" in self.image

    @property
    def head(self) -> str:
        """The first line of every file."""
        return f"zimage-operator render --target standalone, from the ZImageService {self.service.name}: change that."


def order(service: ZImageService, image: str, settings: Mapping[str, str], hosts: Hosts) -> Order:
    """Check that this target can give what the service and the addresses ask for.

    Raises:
        InvalidSpec: one line per mistake.
    """
    mistakes = [*addresses(hosts), *unable(service)]
    if mistakes:
        raise InvalidSpec("\n".join(mistakes))
    return Order(service, image, settings, hosts)


def addresses(hosts: Hosts) -> list[str]:
    """Give what is wrong with the addresses; each line names the option."""
    found = []
    for option, text in (("--inner-address", hosts.inner), ("--dmz-address", hosts.dmz)):
        try:
            ip_address(text)
        except ValueError:
            found.append(f"{option}: write an address such as 10.0.1.2, without a port or a range")
    if not found and (ip_address(hosts.inner).is_loopback or ip_address(hosts.dmz).is_loopback) and hosts != ONE_HOST:
        found.append("--inner-address and --dmz-address go together: write both for two hosts, none for one host")
    return found


def unable(service: ZImageService) -> list[str]:
    """Give what Docker and nginx on plain hosts cannot stand for."""
    found = []
    # In a cluster the API server has seen to it; here the name becomes part of paths.
    if not re.fullmatch(SUBDOMAIN, service.name):
        found.append("metadata.name: write lower-case letters, digits, '-' and '.'")
    if not service.spec.ingress:
        found.append("spec.ingress: this target publishes a host: write ingress.host and ingress.tls.secretName")
    elif not service.spec.routed:
        found.append("spec.ingress.enabled: this target publishes a host: write true, or leave it out")
    if not known_device(service.spec.gpu):
        found.append(
            f"spec.gpu: Docker knows whole NVIDIA devices: write gpu.resourceName: {DEFAULT_DEVICE}, or gpu.count: 0"
        )
    return found


def known_device(gpu: Gpu) -> bool:
    """Whether Docker can be told of these devices."""
    return gpu.count == 0 or gpu.extended_resource == DEFAULT_DEVICE or gpu.device_class_name == DEVICE_CLASS
