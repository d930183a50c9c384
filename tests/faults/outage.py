"""An API server that is killed and comes back, with the same data and the same address."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import time
from pathlib import Path

from cluster.control_plane import ControlPlane
from cluster.programs import answers


class Outage:
    """Takes over the API server of a control plane: from the first restart on it dies with this process."""

    def __init__(self, cluster: ControlPlane) -> None:
        self.cluster, self.directory = cluster, cluster.kubeconfig.parent
        self.process: subprocess.Popen[bytes] | None = None
        pid = int((self.directory / "kube-apiserver.pid").read_text())
        self.pid = pid
        self.command = [part for part in Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0") if part]

    def restart(self, seconds: float = 0.0) -> None:
        """Kill it, wait, start it, and wait until it is ready."""
        os.kill(self.process.pid if self.process else self.pid, signal.SIGKILL)
        if self.process:
            self.process.wait()
        time.sleep(seconds)
        with (self.directory / "kube-apiserver.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "--", *self.command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.wait()

    def wait(self) -> None:
        context = ssl.create_default_context(cafile=str(self.cluster.ca_crt))
        context.load_cert_chain(self.directory / "admin.crt", self.directory / "admin.key")
        end = time.monotonic() + 120
        while not answers(f"{self.cluster.server}/readyz", context):
            assert time.monotonic() < end, "the API server did not come back"
            time.sleep(0.1)

    def close(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
