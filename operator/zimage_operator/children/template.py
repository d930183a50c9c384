"""All that a running worker was started with: as this operator builds it, and as former ones did.

A newer operator must not restart workers that nobody asked it to restart. It recognises a
template of a former one by building that template itself, from the same spec, and comparing
digests: what the live object says only chooses among templates of our own, so a hand edit can
never be taken for an old template (docs/decisions/0212-templates-of-former-operators.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from ..manifest import Environment, Manifest, digest
from ..models import Weights, weights
from ..spec import ZImageService
from .configmap import settings
from .pod import LEAVE_SECONDS, pod


@dataclass(frozen=True)
class Template:
    """The pod and the environment of its process, which does not change while it runs."""

    pod: Manifest
    settings: dict[str, str]
    # The fetched model that it serves, if it was fetched.
    model: Weights | None = None
    # A newer one waits for a change of the spec.
    outdated: bool = False

    @cached_property
    def revision(self) -> str:
        """The digest of all of it: another revision starts new pods."""
        return digest([self.pod, self.settings])


def newest(service: ZImageService, environment: Environment, model: Weights | None = None) -> Template:
    """Build the template as this operator wants it."""
    model = model or weights(service)
    return Template(pod(service, environment), settings(service, model), model)


def without_leave(template: Template) -> Template:
    """Before a worker that rolls waited for the proxies to hear that it goes."""
    worker = dict(template.pod["containers"][0])
    if not worker.pop("lifecycle", None):
        return template
    grace_seconds = template.pod["terminationGracePeriodSeconds"] - LEAVE_SECONDS
    return replace(
        template, pod={**template.pod, "terminationGracePeriodSeconds": grace_seconds, "containers": [worker]}
    )


def without_host_fields(template: Template) -> Template:
    """Before hostNetwork, hostPID and hostIPC were sent."""
    sent = {"hostNetwork", "hostPID", "hostIPC"}
    return replace(template, pod={key: value for key, value in template.pod.items() if key not in sent})


# What was in force before it could be written.
FORMER_BODY_BYTES = str(4 * 1024 * 1024)


def without_body_limit(template: Template) -> Template:
    """Before ingress.maxBodySize. Only where it says what it says by default: a wish of the user's is no upgrade."""
    name = "ZIMAGE_MAX_BODY_BYTES"
    if template.settings.get(name) != FORMER_BODY_BYTES:
        return template
    return replace(template, settings={key: value for key, value in template.settings.items() if key != name})


# How the template looked before, one step back each, newest first. Whoever changes what pod.py
# or configmap.py build of an unchanged spec adds a step, or every upgrade restarts every GPU pod:
# tests/operator/test_upgrade.py holds the frozen templates of former operators against this list.
FORMER: tuple[Callable[[Template], Template], ...] = (without_leave, without_body_limit, without_host_fields)


def shapes(template: Template) -> Iterator[Template]:
    """Give a template as this operator and every former one builds it."""
    yield template
    for undo in FORMER:
        template = undo(template)
        yield template


def in_force(service: ZImageService, environment: Environment, revision: str, model: Weights | None = None) -> Template:
    """Give the template to be applied, where workers of `revision` run ("" where none do).

    `model`: the fetched one that they are to serve; the one that is asked for if not given.

    The one in force stays while it is what some former operator makes of this very spec.
    Without workers there is nothing to disturb, and the newest is taken.
    """
    best = newest(service, environment, model)
    if environment.update_policy == "Auto" or service.spec.stopped or revision in ("", best.revision):
        return best
    images = dict.fromkeys((environment.worker_image, *environment.former_worker_images))
    built = (newest(service, replace(environment, worker_image=image), model) for image in images)
    known = (shape for template in built for shape in shapes(template))
    return next((replace(shape, outdated=True) for shape in known if shape.revision == revision), best)
