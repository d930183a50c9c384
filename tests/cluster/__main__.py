"""The test clusters from the command line; the Makefile calls this.

    python -m tests.cluster up DIR                      the real node, until `down`
    python -m tests.cluster exec DIR -- COMMAND …       run a command inside its namespaces
    python -m tests.cluster down DIR
    python -m tests.cluster control-plane-up DIR        the control plane and a fake node
    python -m tests.cluster control-plane-down DIR

`down` and `control-plane-down` need the standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from . import keeper


def control_plane_up(directory: Path) -> int:
    from .control_plane import ControlPlane

    began = time.monotonic()
    control_plane = ControlPlane(directory).start(stay=True)
    print(f"# the control plane is up after {time.monotonic() - began:.1f} s; `make control-plane-down` ends it")
    print(f"# kubectl: {control_plane.facts['kubectl']}")
    print(f"export KUBECONFIG={control_plane.kubeconfig}")
    return 0


def up(directory: Path) -> int:
    from . import images
    from .node import Node

    began = time.monotonic()
    node = Node([images.probe_image()], directory=directory).start(stay=True)
    print(f"# the node is up after {time.monotonic() - began:.1f} s; `make cluster-down` ends it")
    print("# its addresses mean something inside its namespaces only; to run a command there:")
    print(f"#   {sys.executable} -m tests.cluster exec {directory} -- kubectl get nodes")
    print(f"export KUBECONFIG={node.kubeconfig}")
    return 0


def execute(directory: Path, command: list[str]) -> int:
    from .node import Node

    node = Node(directory=directory).attach()
    return subprocess.run(node.inside([*command]), env={**os.environ, **node.environment}, check=False).returncode


def down(directory: Path) -> int:
    began = time.monotonic()
    keeper.end(directory)
    print(f"nothing runs in {directory} any more ({time.monotonic() - began:.1f} s)")
    return 0


def keep(kind: str, directory: Path, order: str) -> int:
    """The keeper's own process; started by keeper.start only."""
    if kind == "control-plane":
        from .control_plane import keep as bring_up
    else:
        from .node import keep as bring_up
    return keeper.keep(bring_up, directory, json.loads(order))


def main(arguments: list[str]) -> int:
    match arguments:
        case ["up", directory]:
            return up(Path(directory).absolute())
        case ["exec", directory, "--", *command] if command:
            return execute(Path(directory).absolute(), command)
        case ["control-plane-up", directory]:
            return control_plane_up(Path(directory).absolute())
        case ["down" | "control-plane-down", directory]:
            return down(Path(directory).absolute())
        case ["keep", kind, directory, order]:
            return keep(kind, Path(directory), order)
        case ["node-init", directory, options]:
            from . import node_init

            return node_init.main(Path(directory), json.loads(options))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except keeper.ClusterFailed as error:
        sys.exit(str(error))
