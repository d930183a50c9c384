"""The ordered list of everything that a service needs before it may be published.

The order is the order of application: the NetworkPolicy stands before the first pod does.
What publishes the service comes from edge/, and after all of these.
"""

from __future__ import annotations

from ..manifest import Environment, Manifest
from ..models import Choice, weights
from ..spec import ZImageService
from .autoscaler import autoscaler
from .certificate import certificate
from .claimtemplate import claim_template
from .configmap import config_map
from .credentials import issue
from .deployment import deployment
from .disruptionbudget import disruption_budget
from .download import download_job, model_claim
from .networkpolicy import download_policy, network_policy
from .service import service as cluster_service
from .serviceaccount import service_account
from .template import Template, in_force


def children(
    service: ZImageService,
    environment: Environment,
    template: Template | None = None,
    choice: Choice | None = None,
) -> list[Manifest]:
    """Build every object of `service` that is not part of its route, in order.

    `template`: the one that workers run with already, if any (template.in_force). `choice`: what is to be
    fetched (models.choose); without it everything is, as for a new service.
    """
    template = template or in_force(service, environment, "")
    choice = choice or Choice(wanted=weights(service))
    workload = deployment(service, template)
    spec = service.spec
    hub = spec.model is not None and spec.model.hugging_face is not None
    before = [
        network_policy(service, environment),
        *([download_policy(service, environment)] if hub else []),
        service_account(service),
        *([model_claim(service)] if hub else []),
        *([issue(service)] if service.generated else []),
        # A suspended service has no pods, so it fetches nothing; what is there stays.
        *([download_job(service, environment, choice)] if choice.wanted and not spec.suspend else []),
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
