"""The ordered list of everything that a service needs before it may be published.

The order is the order of application: the NetworkPolicy stands before the first pod does.
What publishes the service comes from edge/, and after all of these.
"""

from __future__ import annotations

from ..manifest import Environment, Manifest
from ..spec import ZImageService
from .autoscaler import autoscaler
from .certificate import certificate
from .claimtemplate import claim_template
from .configmap import config_map
from .credentials import issue
from .deployment import deployment
from .disruptionbudget import disruption_budget
from .networkpolicy import network_policy
from .service import service as cluster_service
from .serviceaccount import service_account
from .template import Template, in_force


def children(service: ZImageService, environment: Environment, template: Template | None = None) -> list[Manifest]:
    """Build every object of `service` that is not part of its route, in order.

    `template`: the one that workers run with already, if any (template.in_force).
    """
    template = template or in_force(service, environment, "")
    workload = deployment(service, template)
    spec = service.spec
    before = [
        network_policy(service, environment),
        service_account(service),
        *([issue(service)] if service.generated else []),
        config_map(service, template.settings),
        *([claim_template(service)] if spec.gpu.claimed else []),
    ]
    # Stopping waits for nothing: a policy that is refused must not keep workers running.
    ordered = [workload, *before] if spec.suspend else [*before, workload]
    scaled = spec.autoscaling if not spec.suspend else None
    return [
        *ordered,
        cluster_service(service),
        disruption_budget(service),
        *([autoscaler(service, scaled)] if scaled else []),
        *certificate(service),
    ]
