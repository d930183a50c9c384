#!/usr/bin/env python3
"""Make the virtual environment from the hash-locked list, with uv.

    install.py VENV

Uses the uv on the PATH where there is one, else installs the locked uv into VENV.
Standard library only: nothing of the project is installed yet.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MINIMUM = (3, 11)


def main(folder: Path) -> int:
    """Create `folder` if need be and bring it to the locked state; give the exit code."""
    if sys.version_info < MINIMUM:
        print(f"zimage-operator needs Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=python3.12 …")
        return 2
    began = time.monotonic()
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True, symlinks=True)
    python = str(folder / "bin" / "python")
    uv = shutil.which("uv") or str(folder / "bin" / "uv")
    if not Path(uv).exists():
        print("uv is not on the PATH: installing it into", folder, flush=True)
        lock = ROOT / "requirements" / "uv.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", lock], check=True)
    print(f"installing into {folder} (torch with CUDA: 4.7 GB on disk the first time)", flush=True)
    install = [uv, "pip", "install", "--quiet", "--python", python]
    # Now, and not at each start: where Python is told to write none, every worker of a test compiles torch anew (20 s).
    compiled = ["--compile-bytecode", "--require-hashes"]
    subprocess.run([*install, *compiled, "-r", ROOT / "requirements" / "dev.txt"], check=True)
    subprocess.run([*install, "--no-deps", "--no-build-isolation", "-e", ROOT], check=True)
    print(f"installed in {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
