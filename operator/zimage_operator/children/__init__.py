"""The ordered list of everything that a service needs before it may be published.

The order is the order of application: the NetworkPolicy stands before the first pod does.
What publishes the service comes from edge/, and after all of these.
"""

from __future__ import annotations

from ..manifest import Environment, Manifest
from ..spec import ZImageService
from .configmap import config_map
from .credentials import issue
from .deployment import deployment
from .networkpolicy import network_policy
from .service import service as cluster_service
from .serviceaccount import service_account


def children(service: ZImageService, environment: Environment) -> list[Manifest]:
    """Build every object of `service` that is not part of its route, in order."""
    return [
        network_policy(service, environment),
        service_account(service),
        *([issue(service)] if service.generated else []),
        config_map(service),
        deployment(service, environment),
        cluster_service(service),
    ]
