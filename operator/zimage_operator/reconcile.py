"""The straight line. Start reading here.

    resource → typed spec → desired children → server-side apply → observed facts → status

Level-based: it never asks what changed, so running it twice, late or after a crash gives
the same result. It never waits: it reports, and is called again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from . import bounds
from .children import children
from .children.podmonitor import pod_monitor
from .children.template import in_force
from .cluster import Cluster
from .credentials import Issuer
from .edge import Dialect, dialect
from .entrances import Entrance
from .errors import InvalidSpec, Refused
from .exposure import audit
from .manifest import Environment, Key, Manifest, Ref, ref
from .models import Choice, FetchReport
from .names import OPERATOR_POD_LABELS
from .observed import EdgeReport, Observed, Report
from .spec import ZImageService, parse
from .status import PUBLISHING_KINDS, route, stalled, status, unprotected, withheld


@dataclass(frozen=True)
class Outcome:
    """The status to be written, and what the caller has to know beside it."""

    status: dict[str, Any]
    service: ZImageService | None = None
    # Not in place, and no watch tells when that changes: look again.
    refused: tuple[Refused, ...] = ()
    observed: Observed = field(default_factory=Observed)


@dataclass(frozen=True)
class Probing:
    """What the probes have found so far, by pod uid and by service; `enabled` False where there are none."""

    enabled: bool
    reports: dict[str, Report]
    edges: dict[Key, EdgeReport]
    fetches: dict[str, FetchReport]


async def reconcile(
    body: Mapping[str, Any],
    cluster: Cluster,
    issuer: Issuer,
    environment: Environment,
    probing: Probing,
    now: datetime,
) -> Outcome:
    """Bring the cluster one step closer to `body`, then report what is true.

    Raises:
        Conflict, ClusterUnavailable: the caller comes back.
        NamespaceTerminating: the caller does not.
    """
    previous = body.get("status") or {}
    try:
        service = parse(body)
        bounds.check(service, environment.bounds)
    except InvalidSpec as error:
        # An answer, not a failure: only the user can mend it, and the old children go on.
        return Outcome(stalled(body, error, previous, now))
    entrance = cluster.entrance(service) if service.spec.routed else Entrance()
    edge = dialect(service, entrance.controller)
    entrance = described(service, entrance, edge)
    choice = cluster.choose(service, environment)
    revision = await cluster.revision(service, previous)
    template = in_force(service, environment, revision, choice.standing)
    desired = children(service, environment, template, choice)
    await cluster.retire(service, choice, desired, now)
    protection = edge.helpers(service) if edge else []
    # Before any pod: a Secret of that name which is not ours must not let its users in.
    allowed, lacking = await issuer.issue(service, startable(service, desired, choice), now)
    refused = (*lacking, *await cluster.apply(service, [*allowed, *protection]))
    # Apart: that nobody watches a service is no reason to hold it back.
    watching = pod_monitor(service, environment, served=cluster.serves("PodMonitor"))
    unwatched = await cluster.apply(service, watching)

    clients = cluster.clients(service)
    facts: dict[str, Any] = {
        "probing": probing.enabled,
        "clients": clients,
        "blind": is_admitted(service, environment, clients or ()),
        "edge": probing.edges.get((service.namespace, service.name)),
        "exposure": audit(service, desired, cluster.surroundings(service)),
        "outdated": template.outdated,
        "entrance": entrance,
        "choice": choice,
        "fetches": probing.fetches,
    }
    observed = cluster.observe(service, (*refused, *unwatched), probing.reports, **facts)
    # The route is last: applied only when everything that protects it stands, and taken away
    # only when that is known to have gone.
    suspended = service.spec.suspend
    routes = edge.routes(service) if edge and not suspended else []
    if routes and not withheld(service, observed, now):
        refused = await cluster.apply(service, routes)
    if edge or suspended or not service.spec.routed:
        kept = [] if unprotected(service, observed) else routes
        await cluster.prune(service, keep=[*desired, *watching, *protection, *kept])
    else:
        # A class that cannot be seen is no reason to take a route away; that it is to be another kind of route is.
        await cluster.prune(service, keep=[], only=PUBLISHING_KINDS - {route(service).kind})

    # Read back after writing: the status never claims more than was seen.
    refused = (*refused, *unwatched)
    observed = cluster.observe(service, refused, probing.reports, **facts)
    return Outcome(status(service, observed, previous, now), service, refused, observed)


def described(service: ZImageService, entrance: Entrance, edge: Dialect | None) -> Entrance:
    """Add what the dialect gives of what the resource asks for, and what it does not."""
    if edge is None:
        return entrance
    lacks = edge.lacks(service)
    if lacks and not entrance.reason:
        advice = "use another class (docs/edges.md), or remove the field and keep strangers out by other means"
        text = (
            f"{lacks} is written, and neither this edge ({entrance.controller}) nor the workers could give it: {advice}"
        )
        entrance = replace(entrance, reason="DialectUnsupported", message=text, unsafe=True)
    return replace(entrance, dialect=edge.NAME, left=tuple(edge.left(service)), note=edge.NOTE)


def startable(service: ZImageService, desired: list[Manifest], choice: Choice) -> list[Manifest]:
    """Leave out what workers are started from while there is no model to start them with.

    What runs of another source goes on as it is: it is neither changed nor taken away.
    """
    if choice.ready or service.spec.suspend:
        return desired
    held = {Ref(kind, service.namespace, service.name) for kind in ("ConfigMap", "Deployment")}
    return [item for item in desired if ref(item) not in held]


def is_admitted(service: ZImageService, environment: Environment, clients: Collection[str]) -> bool:
    """Whether the policy lets the operator itself in, so that it cannot see what strangers see."""
    return environment.operator_namespace in clients and all(
        OPERATOR_POD_LABELS.get(key) == value for key, value in service.spec.network.proxy_pod_labels.items()
    )
