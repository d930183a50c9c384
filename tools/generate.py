#!/usr/bin/env python3
"""Write everything that is made from the code, or with --check say what is out of date.

generate.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

import worker_metrics
import yaml

from zimage_operator.__main__ import CONTROLLER, document, rendered
from zimage_operator.crd import definition
from zimage_operator.names import GROUP, PLURAL

ROOT = Path(__file__).resolve().parent.parent


def outputs() -> dict[Path, str]:
    """Give every generated file with what it has to hold."""
    crd = {ROOT / "crds" / f"{GROUP}_{PLURAL}.yaml": document(definition())}
    return {**crd, ROOT / "docs" / "reference" / "worker-metrics.md": worker_metrics.page(), **goldens()}


def goldens() -> dict[Path, str]:
    """Give what each golden resource becomes: a change of a builder is reviewed as a change of these files."""
    found = sorted((ROOT / "tests" / "operator" / "golden").glob("*/resource.yaml"))
    return {path.with_name("children.yaml"): children(path) for path in found}


def children(path: Path) -> str:
    """Give the children of one resource as YAML documents, in the order of application."""
    return "---\n".join(document(item) for item in rendered(yaml.safe_load(path.read_text()), CONTROLLER))


def main() -> int:
    """Write or compare; exit code 1 where --check finds a difference."""
    stale = [path for path, text in outputs().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: make generate")
        return 1 if stale else 0
    for path in stale:
        path.write_text(outputs()[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
