"""Kubernetes' resource.Quantity: amounts as text, compared as numbers."""

from __future__ import annotations

import re
from decimal import Decimal

# Without the exponent form and the sign: nobody writes them, and nothing of ours may be negative.
QUANTITY = r"(\d+|\d+\.\d*|\.\d+)([KMGTPE]i|[kMGTPE]|m)?"

# The orders of magnitude of Kubernetes' resource.Quantity.
SUFFIXES: dict[str, Decimal] = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000**power) for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024**power) for power, suffix in enumerate("KMGTPE", start=1)},
}


def quantity(text: str) -> Decimal:
    """Give the plain number that a Kubernetes quantity stands for (`500m` → 0.5, `1Gi` → 1073741824).

    Raises:
        ValueError: `text` is not a quantity.
    """
    matched = re.fullmatch(r"([+-]?[\d.]+)([A-Za-z]*)", text)
    if not matched or matched[2] not in SUFFIXES:
        raise ValueError(f"not a quantity: {text}")
    return Decimal(matched[1]) * SUFFIXES[matched[2]]
