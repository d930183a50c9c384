"""An identity without a token."""

from __future__ import annotations

from ..manifest import Manifest, manifest
from ..spec import ZImageService


def service_account(service: ZImageService) -> Manifest:
    """Build the workers' ServiceAccount: not `default`, which others may have given rights to."""
    return manifest("v1", "ServiceAccount", service, automountServiceAccountToken=False)
