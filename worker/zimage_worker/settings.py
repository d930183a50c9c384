"""The worker's settings: read once from the environment, then frozen.

The names and defaults are a contract: docs/reference/worker-settings.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TypeVar

from .settings_auth import AuthSettings, parse_auth

Network = IPv4Network | IPv6Network
T = TypeVar("T")

HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*|[0-9a-f:]+")
QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(Ki|Mi|Gi|Ti|k|M|G|T)?")
UNITS = {None: 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


BODY_LEAST_BYTES, BODY_MOST_BYTES = 64 * 1024, 24 * 1024 * 1024


class SettingsWrong(Exception):
    """One line a mistake: the variable, the problem, what to write."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_pixels: int
    max_steps: int
    max_images: int


@dataclass(frozen=True)
class Settings:
    """All that `zimage-worker serve` knows from outside."""

    model_path: Path
    model_revision: str
    template_revision: str
    device: str
    host: str
    port: int
    management_host: str
    management_port: int
    auth: AuthSettings
    allowed_hosts: tuple[str, ...]
    trusted_proxies: tuple[Network, ...]
    rate_limit_per_minute: int
    rate_limit_burst: int
    max_body_bytes: int
    queue_length: int
    request_timeout_seconds: int
    drain_seconds: int
    stall_seconds: int
    limits: Limits
    gpu_memory_bytes: int | None
    certificate_file: Path | None
    access_log: str


def split(text: str) -> list[str]:
    """A comma-separated list, without blanks."""
    return [item for item in (part.strip() for part in text.split(",")) if item]


def quantity_bytes(text: str) -> int:
    """A Kubernetes quantity in bytes.

    Raises:
        ValueError: it is none.
    """
    match = QUANTITY.fullmatch(text)
    if not match or float(match[1]) <= 0:
        raise ValueError(text)
    return int(float(match[1]) * UNITS[match[2]])


class Reader:
    """Reads variables one by one and collects the mistakes instead of stopping at the first."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.mistakes: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        """The value without surrounding blanks; an empty variable counts as unset."""
        return self.environ.get(name, "").strip() or default

    def items(self, name: str) -> list[str]:
        """A comma-separated list."""
        return split(self.text(name))

    def wrong(self, name: str, problem: str, write: str) -> None:
        """Note one mistake."""
        self.mistakes.append(f"{name}: {problem}; write {write}")

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number within its range."""
        text = self.text(name, str(default))
        # isascii: int() also takes digits of other scripts, signs and underscores.
        if text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high:
            return int(text)
        self.wrong(name, f"{text[:40]!r} is not a whole number from {low} to {high}", f"for example {default}")
        return default

    def parsed(self, name: str, parse: Callable[[str], T], fallback: T, write: str) -> T:
        """An optional value that `parse` understands."""
        text = self.text(name)
        if not text:
            return fallback
        try:
            return parse(text)
        except ValueError:
            self.wrong(name, f"{text[:80]!r} is not understood", write)
            return fallback


def networks(text: str) -> tuple[Network, ...]:
    """CIDRs; host bits are refused because they are always a slip."""
    return tuple(ip_network(item) for item in split(text))


def allowed_hosts(read: Reader) -> tuple[str, ...]:
    """Names in lower case, or `*`."""
    hosts = tuple(host.lower() for host in split(read.text("ZIMAGE_ALLOWED_HOSTS")))
    if not hosts:
        read.wrong("ZIMAGE_ALLOWED_HOSTS", "it is not set", "the host names of the service, or * for any")
    for host in hosts:
        if host != "*" and not HOST_NAME.fullmatch(host):
            read.wrong("ZIMAGE_ALLOWED_HOSTS", f"{host[:80]!r} is no host name", "names such as images.example.org")
    return hosts


def model_path(read: Reader) -> Path:
    """The folder that from_pretrained reads; it may be filled later."""
    text = read.text("ZIMAGE_MODEL_PATH")
    if not text:
        read.wrong("ZIMAGE_MODEL_PATH", "it is not set", "the folder of the model, for example /models/z-image")
    return Path(text)


def device(read: Reader) -> str:
    """Where the model runs."""
    text = read.text("ZIMAGE_DEVICE", "auto")
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,2})?", text):
        read.wrong("ZIMAGE_DEVICE", f"{text[:40]!r} is no device", "auto, cuda or cpu")
    return text


def parse(environ: Mapping[str, str]) -> Settings:
    """The environment as settings.

    Raises:
        SettingsWrong: with every mistake, not only the first.
    """
    read = Reader(environ)
    certificate = read.text("ZIMAGE_CERTIFICATE_FILE")
    settings = Settings(
        model_path=model_path(read),
        model_revision=read.text("ZIMAGE_MODEL_REVISION"),
        template_revision=read.text("ZIMAGE_TEMPLATE_REVISION"),
        device=device(read),
        host=read.text("ZIMAGE_HOST", "0.0.0.0"),  # noqa: S104  a pod's address is not known before
        port=read.number("ZIMAGE_PORT", 7860, 1, 65535),
        management_host=read.text("ZIMAGE_MANAGEMENT_HOST", "0.0.0.0"),  # noqa: S104
        management_port=read.number("ZIMAGE_MANAGEMENT_PORT", 9090, 1, 65535),
        auth=parse_auth(read),
        allowed_hosts=allowed_hosts(read),
        trusted_proxies=read.parsed("ZIMAGE_TRUSTED_PROXIES", networks, (), "CIDRs such as 10.0.0.0/8,fd00::/8"),
        rate_limit_per_minute=read.number("ZIMAGE_RATE_LIMIT_PER_MINUTE", 60, 1, 1_000_000),
        rate_limit_burst=read.number("ZIMAGE_RATE_LIMIT_BURST", 20, 1, 1_000_000),
        # 24 MiB: a PNG of 4096 x 4096 photographed pixels is about that large. 64 KiB: the longest prompt.
        max_body_bytes=read.number("ZIMAGE_MAX_BODY_BYTES", BODY_MOST_BYTES, BODY_LEAST_BYTES, BODY_MOST_BYTES),
        queue_length=read.number("ZIMAGE_QUEUE_LENGTH", 16, 1, 10_000),
        request_timeout_seconds=read.number("ZIMAGE_REQUEST_TIMEOUT_SECONDS", 300, 1, 86_400),
        drain_seconds=read.number("ZIMAGE_DRAIN_SECONDS", 120, 0, 86_400),
        stall_seconds=read.number("ZIMAGE_STALL_SECONDS", 60, 1, 86_400),
        limits=Limits(
            # 8192 x 8192: the model's position table ends there.
            max_pixels=read.number("ZIMAGE_MAX_PIXELS", 1024 * 1024, 256, 8192 * 8192),
            max_steps=read.number("ZIMAGE_MAX_STEPS", 50, 1, 1000),
            max_images=read.number("ZIMAGE_MAX_IMAGES", 4, 1, 64),
        ),
        gpu_memory_bytes=read.parsed("ZIMAGE_GPU_MEMORY", quantity_bytes, None, "a quantity such as 24Gi"),
        certificate_file=Path(certificate) if certificate else None,
        access_log=read.text("ZIMAGE_ACCESS_LOG", "stdout"),
    )
    if settings.port == settings.management_port and settings.host == settings.management_host:
        read.wrong("ZIMAGE_MANAGEMENT_PORT", f"{settings.port} is ZIMAGE_PORT too", "another port, for example 9090")
    if read.mistakes:
        raise SettingsWrong(read.mistakes)
    return settings
