"""The command line: run | render | check | crd. Reads settings and wires the parts; it holds no rules."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from . import __version__, bounds, folder, logs, metrics, settings
from .bounds import Bounds
from .children import children
from .children.configmap import settings as worker_settings
from .children.podmonitor import pod_monitor
from .crd import definition
from .edge import dialect, standalone
from .errors import BadSettings, ForeignFiles, InvalidSpec
from .manifest import Environment, Manifest, stamped
from .names import API_VERSION, KIND, TRAEFIK_CONTROLLER
from .spec import ZImageService, parse

# Offline there is no API server that gives one.
NO_UID = "00000000-0000-0000-0000-000000000000"
# What `render` takes the class's controller to be: offline nobody can look it up.
CONTROLLER, GATEWAY_CONTROLLER = TRAEFIK_CONTROLLER, "traefik.io/gateway-controller"
USAGE = 2


def main() -> None:
    """Run the command and exit with its code: 0 fine, 1 refused or failed, 2 wrong usage or settings."""
    arguments = parser().parse_args()
    logs.configure("info", "text" if sys.stderr.isatty() else "json")
    try:
        code = arguments.command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # `… | head` has read enough. What is still buffered goes nowhere, or Python complains at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    top = argparse.ArgumentParser(prog="zimage-operator", description="Runs secured Z-Image text-to-image services.")
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("run", help="watch and reconcile (settings: ZIMAGE_OPERATOR_* in the environment)")
    command.set_defaults(command=run)
    command = commands.add_parser("render", help="print what a manifest becomes, without a cluster")
    command.add_argument("manifest", type=Path, help="YAML file; - reads standard input")
    command.add_argument(
        "--controller", default="", help="controller of the IngressClass or GatewayClass; Traefik's if not given"
    )
    command.add_argument("--pod-monitors", action="store_true", help="for a cluster that knows PodMonitors")
    command.add_argument("--target", choices=("cluster", standalone.NAME), default="cluster", help="where it will run")
    command.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for the files of --target standalone")
    address = "standalone, two hosts: where the {} (default: one host)"
    for option, what in (("--inner-address", "inner host listens"), ("--dmz-address", "DMZ host's nginx comes from")):
        command.add_argument(option, default=standalone.LOOPBACK, metavar="IP", help=address.format(what))
    command.set_defaults(command=render)
    command = commands.add_parser("check", help="validate manifests strictly, without a cluster")
    command.add_argument("manifests", type=Path, nargs="+", help="YAML files; - reads standard input")
    command.set_defaults(command=check)
    command = commands.add_parser("crd", help="print the CustomResourceDefinition")
    command.set_defaults(command=crd)
    return top


def run(_: argparse.Namespace) -> int:
    """Run the operator until it is told to stop."""
    try:
        known = settings.read(os.environ)
    except BadSettings as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return USAGE
    logs.configure(known.log_level, known.log_format)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(operate(known))


async def operate(known: settings.Settings) -> int:
    """Start the parts; the death of any of them ends the process."""
    from .api import Api
    from .controller import Controller
    from .server import serve
    from .watch import watch

    metrics.BUILD.info({"version": __version__})
    identity = f"{os.environ.get('HOSTNAME', 'outside')}-{uuid.uuid4().hex[:8]}"
    api = await Api.connect(f"zimage-operator/{__version__} {identity}")
    controller = Controller(api, known, identity)
    server = await serve(known.port, controller.streams.synced, controller.health)
    asked, stop = asyncio.Event(), asyncio.Event()
    work = asyncio.create_task(controller.run())
    streams = asyncio.create_task(watch(controller, known, asked, stop))
    told = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait({work, streams, told}, return_when=asyncio.FIRST_COMPLETED)
        if asked.is_set():
            await controller.drain()
        work.cancel()
        told.cancel()
        results: list[object] = list(await asyncio.gather(work, return_exceptions=True))
        stop.set()
        results += await asyncio.gather(streams, return_exceptions=True)
    finally:
        await server.cleanup()
        await api.close()
    problems = [leaf for item in results if isinstance(item, Exception) for leaf in leaves(item)]
    for problem in problems:
        print(f"zimage-operator: {type(problem).__name__}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Give what went wrong without the groups around it: those say nothing to a reader of the log."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from leaves(one)
    else:
        yield error


def documents(path: Path) -> list[dict[str, Any]]:
    """Read the ZImageServices of a YAML file; other kinds are left out.

    Raises:
        InvalidSpec: one is of a version that there is not: left out, nobody would hear of it.
    """
    text = sys.stdin.read() if str(path) == "-" else path.read_text()
    every = [item for item in yaml.safe_load_all(text) if isinstance(item, dict)]
    found = [item for item in every if item.get("kind") == KIND]
    for version in (item.get("apiVersion") for item in found):
        if version != API_VERSION:
            raise InvalidSpec(f"{KIND} of apiVersion {version}: write apiVersion: {API_VERSION}")
    return found


def render(arguments: argparse.Namespace) -> int:
    """Print the children of every ZImageService in a file, or write the files of one for plain hosts."""
    try:
        known = settings.read(os.environ)
        environment = Environment(
            known.worker_image,
            known.namespace,
            pod_monitors=known.pod_monitors,
            pod_monitor_labels=known.pod_monitor_labels,
            bounds=offline(known),
        )
        bodies = documents(arguments.manifest)
        if arguments.target == standalone.NAME:
            return render_standalone(bodies, arguments, environment)
        items: list[Manifest] = []
        for body in bodies:
            made = rendered(body, arguments.controller, environment, pod_monitors=arguments.pod_monitors)
            # With the digest that the operator adds: what is printed is what it sends, to the byte.
            items += map(stamped, made)
    except BadSettings as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return USAGE
    except (OSError, yaml.YAMLError, InvalidSpec) as error:
        print(f"{arguments.manifest}: {why(error)}", file=sys.stderr)
        return 1
    yaml.safe_dump_all(items, sys.stdout, sort_keys=False, allow_unicode=True)
    return 0


def offline(known: settings.Settings) -> Bounds:
    """Give the bounds of the settings that are set here; unlike in the cluster what is not told is not bounded."""
    told = f"{settings.PREFIX}ALLOW_JWKS_URL" in os.environ
    return known.bounds if told else replace(known.bounds, jwks_url=True)


def render_standalone(bodies: list[dict[str, Any]], arguments: argparse.Namespace, environment: Environment) -> int:
    """Write the files of one service; say on standard error what is not as safe as it could be.

    Raises:
        InvalidSpec: as standalone.order says.
    """
    if not arguments.output:
        print("write -o DIR: the folder for the files", file=sys.stderr)
        return USAGE
    if len(bodies) != 1:
        raise InvalidSpec(f"{len(bodies)} {KIND}s: write exactly one, for one folder")
    wanted = standalone_order(bodies[0], environment, standalone.Hosts(arguments.inner_address, arguments.dmz_address))
    try:
        files = standalone.files(wanted)
        folder.write(arguments.output, files)
    except OSError as error:
        print(f"{error.filename or arguments.output}: {why(error)}", file=sys.stderr)
        return 1
    except ForeignFiles as error:
        print(error, file=sys.stderr)
        return 1
    if not wanted.pinned:
        print(f"{wanted.image}: a tag can be moved; write spec.image.digest", file=sys.stderr)
    print(*(arguments.output / name for name in files), sep="\n")
    return 0


def standalone_order(body: dict[str, Any], environment: Environment, hosts: standalone.Hosts) -> standalone.Order:
    """Read one resource as an order for plain hosts.

    Raises:
        InvalidSpec: one line per mistake.
    """
    service = unseen(body)
    bounds.check(service, environment.bounds)
    image = service.spec.image.reference if service.spec.image else environment.worker_image
    return standalone.order(service, image, worker_settings(service), hosts)


def unseen(body: dict[str, Any]) -> ZImageService:
    """Read a resource that no API server has seen, strictly.

    Raises:
        InvalidSpec: one line per mistake.
    """
    return parse({**body, "metadata": {"uid": NO_UID, **(body.get("metadata") or {})}}, strict=True)


DEFAULTS = Environment(settings.RELEASED_WORKER, settings.DEFAULT_NAMESPACE, bounds=Bounds(jwks_url=True))


def rendered(
    body: dict[str, Any], controller: str = "", environment: Environment = DEFAULTS, *, pod_monitors: bool = False
) -> list[Manifest]:
    """Give what one resource becomes, in order, behind an edge of `controller`, by default Traefik.

    `pod_monitors`: the cluster knows the kind.

    Raises:
        InvalidSpec: one line per mistake.
    """
    service = unseen(body)
    bounds.check(service, environment.bounds)
    edge = dialect(service, controller or (GATEWAY_CONTROLLER if service.spec.gateway else CONTROLLER))
    helpers = edge.helpers(service) if edge else []
    routes = edge.routes(service) if edge and not service.spec.suspend else []
    watching = pod_monitor(service, environment, served=pod_monitors)
    return [*children(service, environment), *helpers, *watching, *routes]


def check(arguments: argparse.Namespace) -> int:
    """Validate every ZImageService in the files; one line per mistake."""
    failed = False
    try:
        allowed = offline(settings.read(os.environ))
    except BadSettings as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return USAGE
    for path in arguments.manifests:
        try:
            found = documents(path)
            for body in found:
                bounds.check(parse(body, strict=True), allowed)
            print(f"{path}: {len(found)} {KIND}{'' if len(found) == 1 else 's'}, no mistakes")
        except (OSError, yaml.YAMLError, InvalidSpec) as error:
            failed = True
            print(*(f"{path}: {line}" for line in why(error).splitlines()), sep="\n", file=sys.stderr)
    return 1 if failed else 0


def why(error: Exception) -> str:
    """Give an error's words without Python's own: a file that is not there needs no number and no name twice."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def crd(_: argparse.Namespace) -> int:
    """Print the CRD, as it is committed under crds/."""
    sys.stdout.write(document(definition()))
    return 0


def document(item: Manifest) -> str:
    """Write one manifest as YAML, without anchors and in the order in which it was built."""
    return yaml.safe_dump(item, sort_keys=False, width=110, allow_unicode=True)


if __name__ == "__main__":
    main()
