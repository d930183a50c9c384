"""A device plugin that advertises GPUs which do not exist: all that is not real on the node.

    python -m tests.cluster.gpu_plugin FILE [--resource nvidia.com/gpu]

FILE says how many; a new number there is told to the kubelet at once, as when a GPU is added or falls out.
SIGUSR1 makes all devices Unhealthy, SIGUSR2 Healthy again. A container that gets one sees
NVIDIA_VISIBLE_DEVICES=GPU-fake-N in its environment, as with the real plugin. The few
messages of the kubelet's v1beta1 API are put together by hand: nothing is generated.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc

PLUGINS = Path("/var/lib/kubelet/device-plugins")
SOCKET = "fakegpu.sock"


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, data: str | bytes) -> bytes:
    """One length-delimited protobuf field."""
    raw = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message: these requests have no others."""
    position = 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(data):
        tag, length = number() >> 3, number()
        yield tag, data[position : position + length]
        position += length


class Plugin:
    """Says which devices there are, and gives them out."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.health = "Healthy"
        self.changed = threading.Event()

    def set_health(self, health: str) -> None:
        self.health = health
        self.changed.set()

    def set_count(self, count: int) -> None:
        if count != self.count:
            self.count = count
            self.changed.set()

    def list_and_watch(self, _: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        while context.is_active():
            self.changed.clear()
            devices = (field(1, f"GPU-fake-{i}") + field(2, self.health) for i in range(self.count))
            yield b"".join(field(1, device) for device in devices)
            self.changed.wait(30)

    def allocate(self, request: bytes, _: grpc.ServicerContext) -> bytes:
        answers = []
        for _, container in fields(request):
            ids = ",".join(value.decode() for _, value in fields(container))
            variable = field(1, "NVIDIA_VISIBLE_DEVICES") + field(2, ids)
            answers.append(field(1, field(1, variable)))
        return b"".join(answers)


def serve(plugin: Plugin) -> grpc.Server:
    def unary(function: Callable[[bytes, grpc.ServicerContext], bytes]) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(function, bytes, bytes)

    nothing = unary(lambda request, context: b"")
    handlers = {
        "GetDevicePluginOptions": nothing,
        "GetPreferredAllocation": nothing,
        "PreStartContainer": nothing,
        "Allocate": unary(plugin.allocate),
        "ListAndWatch": grpc.unary_stream_rpc_method_handler(plugin.list_and_watch, bytes, bytes),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    service = grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", handlers)
    server.add_generic_rpc_handlers((service,))
    (PLUGINS / SOCKET).unlink(missing_ok=True)
    server.add_insecure_port(f"unix://{PLUGINS / SOCKET}")
    server.start()
    return server


def register(resource: str) -> None:
    message = field(1, "v1beta1") + field(2, SOCKET) + field(3, resource)
    with grpc.insecure_channel(f"unix://{PLUGINS / 'kubelet.sock'}") as channel:
        channel.unary_unary("/v1beta1.Registration/Register", bytes, bytes)(message, timeout=5)


def serve_for_ever(plugin: Plugin, resource: str, counted: Path) -> None:
    """Serve and register, and again whenever the kubelet starts: it then removes all sockets here."""
    known, server = None, None
    while True:
        try:
            plugin.set_count(int(counted.read_text()))
            now = os.stat(PLUGINS / "kubelet.sock").st_ino
            if now != known:
                if server:
                    server.stop(None)
                server = serve(plugin)
                register(resource)
                known = now
        except (OSError, grpc.RpcError) as error:
            print("register:", error, file=sys.stderr, flush=True)
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--resource", default="nvidia.com/gpu")
    arguments = parser.parse_args()
    plugin = Plugin(int(arguments.file.read_text()))
    signal.signal(signal.SIGUSR1, lambda *_: plugin.set_health("Unhealthy"))
    signal.signal(signal.SIGUSR2, lambda *_: plugin.set_health("Healthy"))
    serve_for_ever(plugin, arguments.resource, arguments.file)


if __name__ == "__main__":
    main()
