"""Flux's real kustomize-controller. Its source-controller cannot be built here: this file plays it, on loopback."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster import binaries
from cluster.control_plane import ControlPlane
from cluster.ports import free_ports
from cluster.programs import Programs
from support import eventually

SYSTEM = "flux-system"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Flux:
    """The controller, and the artifacts that it reads."""

    def __init__(self, cluster: ControlPlane, folder: Path) -> None:
        self.cluster, self.www, self.programs = cluster, folder / "www", Programs(folder)
        self.www.mkdir()
        handler = functools.partial(Quiet, directory=str(self.www))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def start(self) -> None:
        found = binaries.programs("flux")
        self.cluster.kubectl("apply", "--server-side", "-f", found["flux-src"] / "config/crd/bases")
        repository = {"interval": "1h", "url": "http://127.0.0.1/never-read"}
        self.cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}},
            {
                "apiVersion": "source.toolkit.fluxcd.io/v1",
                "kind": "GitRepository",
                "metadata": {"name": SYSTEM, "namespace": SYSTEM},
                "spec": repository,
            },
        )
        metrics, health = free_ports(2)
        self.programs.start(
            "kustomize-controller",
            found["kustomize-controller"],
            f"--metrics-addr=127.0.0.1:{metrics}",
            f"--health-addr=127.0.0.1:{health}",
            # Half a minute otherwise.
            "--requeue-dependency=1s",
            "--feature-gates=CancelHealthCheckOnNewRevision=true",
            env={**os.environ, **self.cluster.environment, "RUNTIME_NAMESPACE": SYSTEM},
        )
        self.programs.wait_for_url("kustomize-controller", f"http://127.0.0.1:{health}/readyz")

    def stop(self) -> None:
        for process in self.programs.running.values():
            process.terminate()
            process.wait(60)
        self.server.shutdown()
        self.server.server_close()

    def publish(self, folder: Path, commit: str) -> str:
        """Do what source-controller does with a new commit: an archive, and a status that names it; the revision."""
        archive = packed(folder)
        name, revision = f"{commit[:12]}.tar.gz", f"main@sha1:{commit}"
        (self.www / name).write_bytes(archive)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        artifact = {
            "path": name,
            "url": f"http://127.0.0.1:{self.server.server_port}/{name}",
            "revision": revision,
            "digest": f"sha256:{hashlib.sha256(archive).hexdigest()}",
            "lastUpdateTime": now,
            "size": len(archive),
        }
        stored = {"reason": "Succeeded", "message": "stored", "lastTransitionTime": now, "observedGeneration": 1}
        ready = {"type": "Ready", "status": "True", **stored}
        status = {"status": {"artifact": artifact, "observedGeneration": 1, "conditions": [ready]}}
        patch = ("--subresource=status", "--type=merge", "-p", json.dumps(status))
        self.cluster.kubectl("-n", SYSTEM, "patch", "gitrepository", SYSTEM, *patch)
        return revision

    def ready(self, name: str) -> dict[str, Any]:
        """The condition Ready of a Kustomization, with the revision that was tried last."""
        status = self.cluster.get("kustomization", name, "-n", SYSTEM).get("status", {})
        found = [one for one in status.get("conditions", []) if one["type"] == "Ready"]
        tried = {"revision": status.get("lastAttemptedRevision")}
        return {**(found[0] if found else {}), **tried}

    def wait_for(self, name: str, revision: str, status: str, reason: str) -> str:
        """Wait until it says so of a revision; the message."""

        def said() -> dict[str, Any] | None:
            seen = self.ready(name)
            wanted = (revision, status, reason)
            return seen if (seen["revision"], seen.get("status"), seen.get("reason")) == wanted else None

        try:
            return str(eventually(said, f"{name} {status} {reason}", 120)["message"])
        except AssertionError as error:
            log = self.programs.last_words("kustomize-controller", 15)
            raise AssertionError(f"{error}\n{self.ready(name)}\n{log}") from error

    def again(self, name: str) -> None:
        """One more reconciliation, as `flux reconcile` asks for it, to its end."""
        asked = datetime.now(UTC).isoformat()
        self.cluster.kubectl(
            "-n", SYSTEM, "annotate", "--overwrite", "kustomization", name, f"reconcile.fluxcd.io/requestedAt={asked}"
        )

        def handled() -> bool:
            status = self.cluster.get("kustomization", name, "-n", SYSTEM)["status"]
            return status.get("lastHandledReconcileAt") == asked and self.ready(name).get("status") == "True"

        eventually(handled, f"{name} is reconciled again", 120)


def packed(folder: Path) -> bytes:
    """A folder without its .git, as tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and inside.parts[0] != ".git":
                tar.add(path, str(inside))
    return buffer.getvalue()
