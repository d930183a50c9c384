#!/usr/bin/env python3
"""Compile requirements/*.txt from pyproject.toml, with hashes and without any index address.

`dev.txt` is compiled first and constrains the images' files: what is tested is what is shipped. `release.txt` has
an environment of its own (tools/release.py).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILE = ["pip", "compile", "--quiet", "--universal", "--generate-hashes", "--python-version", "3.11", "--no-header"]
FILES = {
    "dev.txt": ["--extra", "operator", "--extra", "worker", "--extra", "dev"],
    "operator.txt": ["--extra", "operator", "--constraint", "requirements/dev.txt"],
    "worker.txt": ["--extra", "worker", "--constraint", "requirements/dev.txt"],
    "release.txt": ["--group", "release"],
}


def main() -> None:
    """Write the files; stops at the first that does not resolve."""
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    for name, extras in FILES.items():
        subprocess.run([uv, *COMPILE, *extras, "pyproject.toml", "-o", f"requirements/{name}"], cwd=ROOT, check=True)
        print("wrote requirements/" + name)


if __name__ == "__main__":
    main()
