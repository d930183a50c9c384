#!/usr/bin/env python3
"""Write everything that is made from the code, or with --check say what is out of date.

generate.py [--check | --freeze VERSION]

--freeze: at a release, keep what this operator makes of the golden resources as tests/operator/upgrade/VERSION,
for its successors to be held against (test_upgrade.py).
"""

from __future__ import annotations

import shutil
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
    return {
        ROOT / "crds" / f"{GROUP}_{PLURAL}.yaml": document(definition()),
        ROOT / "docs/reference/worker-metrics.md": worker_metrics.page(),
        ROOT / "operator/zimage_operator/memory_plan.py": copied(ROOT / "worker/zimage_worker/memory_plan.py"),
        **goldens(),
    }


def goldens() -> dict[Path, str]:
    """Give what each golden resource becomes: a change of a builder is reviewed as a change of these files."""
    found = sorted((ROOT / "tests" / "operator" / "golden").glob("*/resource.yaml"))
    return {path.with_name("children.yaml"): children(path) for path in found}


def children(path: Path) -> str:
    """Give the children of one resource as YAML documents, in the order of application."""
    return "---\n".join(document(item) for item in rendered(yaml.safe_load(path.read_text()), CONTROLLER))


def copied(source: Path) -> str:
    """Give a module for the other package: they never import each other, and one closed form is enough."""
    head = f"# Generated from {source.relative_to(ROOT)} by tools/generate.py: edit that one, then `make generate`.\n"
    return head + source.read_text()


# Their templates differ from each other in what an upgrade may get wrong.
FROZEN_CASES = ("smallest", "scheduling", "image-source", "no-gpu")


def freeze(version: str) -> None:
    """Copy some golden cases as they are now."""
    golden, target = ROOT / "tests" / "operator" / "golden", ROOT / "tests" / "operator" / "upgrade" / version
    for case in FROZEN_CASES:
        shutil.copytree(golden / case, target / case)


def main() -> int:
    """Write or compare; exit code 1 where --check finds a difference."""
    if "--freeze" in sys.argv:
        freeze(sys.argv[-1])
        return 0
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
