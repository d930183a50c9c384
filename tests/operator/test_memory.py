"""What was freed goes back to the system, once there is nothing left to do."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from zimage_operator import controller as module
from zimage_operator import settings
from zimage_operator.controller import Controller
from zimage_operator.memory import give_back

# Texts of the size of objects, every second of them freed: what lies between cannot shrink by itself.
PROGRAM = """
from pathlib import Path
from zimage_operator.memory import give_back

def resident():
    return int(next(line for line in Path("/proc/self/status").open() if line.startswith("VmRSS:")).split()[1]) / 1024

kept = [bytes(20_000) for _ in range(6_000)]
del kept[::2]
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps, and gives back, in this way")
def test_what_lies_between_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    # 57 MiB were freed; a page that is used in part stays.
    assert float(done.stdout) > 20


def test_other_c_libraries_have_no_such_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zimage_operator.memory.ctypes.CDLL", lambda _: object())
    give_back()


async def test_it_is_given_back_when_nothing_is_left_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(module, "TIDY_SECONDS", 0.01)
    monkeypatch.setattr(module, "give_back", lambda: given.append(1))
    known = settings.read({"KUBECONFIG": str(Path(__file__))})
    controller = Controller(None, known, "one")  # type: ignore[arg-type]
    tidying = asyncio.create_task(controller.tidy())
    await asyncio.sleep(0.1)
    assert not given, "nothing was done"
    controller.worked = True
    controller.queue.add(("a", "b"))
    await asyncio.sleep(0.1)
    assert not given, "something is left to do"
    await controller.queue.get()
    await asyncio.sleep(0.1)
    assert given == [1]
    tidying.cancel()
