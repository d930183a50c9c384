"""What a killed test leaves behind: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT, eventually

SCRIPT = """
import time
from pathlib import Path
from standalone.places import Place, cable
one, other = Place("one"), Place("other")
cable(one, "a0", other, "b0")
program = one.start(Path("/dev/null"), "sleep", "5555")
print(one.holder.pid, one.pid, other.holder.pid, other.pid, program.process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
def test_a_killed_test_leaves_no_namespace_no_process_and_no_link() -> None:
    def seen() -> str:
        command = "ip -brief link; ip netns; nft list ruleset; grep -c . /proc/self/mountinfo"
        return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout

    before = seen()
    command = [sys.executable, "-c", SCRIPT]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'operator'}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 5
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        assert seen() == before
        process.kill()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "all of them are gone")
    assert seen() == before
