"""Facts → conditions → status; pure, `now` is an argument.

One function per condition. True holds, False needs somebody, Unknown is under way. The laws:
Ready is always there, never True beside a failed gate, its reason is that of the first gate
that fails (else of the first that is under way), and nothing is claimed that was not read back.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from .entrances import Entrance
from .entrances import refused as refused_by_edge
from .errors import InvalidSpec, Issuing, NotOwned
from .exposure import WIDENS
from .judgement import CONFIG_REASONS, IMAGE_REASONS, Judgement, false, refusal, true, unknown
from .manifest import Ref
from .model_status import model_facts, model_ready
from .names import HTTP_PORT, JWKS_MOUNT, MANAGEMENT_PORT, SIGNING_MOUNT, TLS, selector_labels
from .observed import EdgeReport, Observed, PodFacts, Posture, Problem
from .proof import NAMED, exposures, last_probe, summary
from .spec import ClaimSource, IssuerRef, ZImageService

# What stands before the workload in the order of application, and the workload itself.
WORKLOAD_KINDS = frozenset(
    {
        *("ServiceAccount", "ConfigMap", "ResourceClaimTemplate", "Deployment", "Service"),
        *("PodDisruptionBudget", "HorizontalPodAutoscaler"),
    }
)
# What tells others of the workers; nothing waits for it.
MONITORING_KINDS = frozenset({"PodMonitor"})
# What stands between strangers and the workers.
HELPER_KINDS = frozenset({"TLSOption", "Middleware", "Policy", "SecurityPolicy", "BackendTrafficPolicy"})
PROTECTION_KINDS = HELPER_KINDS | {"NetworkPolicy", "Secret"}
# The kubelet brings a changed Secret within its sync period and cache time (1 min each, at most).
KUBELET_PATIENCE = timedelta(minutes=3)
PUBLISHING_KINDS = frozenset({"Ingress", "HTTPRoute"})
ROUTE_KINDS = HELPER_KINDS | PUBLISHING_KINDS


def current_pods(observed: Observed) -> tuple[PodFacts, ...]:
    """Give the pods of the template in force: what older ones say is about to pass."""
    wanted = observed.deployment.revision if observed.deployment else ""
    return tuple(pod for pod in observed.pods if pod.revision == wanted and not pod.deleting)


def postures(observed: Observed) -> list[Posture]:
    """Give what the current workers said of themselves."""
    reports = (observed.reports.get(pod.uid) for pod in current_pods(observed))
    return [report.posture for report in reports if report and report.posture]


def network_policy_ready(service: ZImageService, observed: Observed) -> Judgement:
    """Whether our policy stands as wanted."""
    kind = "NetworkPolicyReady"
    refused = refusal(kind, observed, frozenset({"NetworkPolicy"}))
    if refused:
        return refused
    if Ref("NetworkPolicy", service.namespace, service.name) in observed.existing:
        return true(kind, "Applied", f"port {HTTP_PORT} is admitted from {admitted(service, observed.clients)}")
    return unknown(kind, "Applying", "the NetworkPolicy is being applied")


def admitted(service: ZImageService, clients: tuple[str, ...] | None) -> str:
    """Say who is let in, and how sure that is."""
    labels = service.spec.network.allowed_namespace_labels
    if not labels:
        return f"{', '.join(service.spec.network.client_namespaces)} only"
    wanted = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
    now = "which they are this operator may not see (Roles only)"
    if clients is not None:
        more = "" if len(clients) <= NAMED else f" and {len(clients) - NAMED} more"
        now = f"now {', '.join(clients[:NAMED])}{more}" if clients else "now none: nobody gets in"
    weaker = "weaker than names (network.allowedNamespaces): whoever may label a namespace lets himself in"
    return f"every namespace labelled {wanted}, {now}; {weaker}"


def network_policy_enforced(service: ZImageService, observed: Observed) -> Judgement:
    """Whether a probe from outside the allowed namespaces was turned away while the pod answered elsewhere."""
    kind = "NetworkPolicyEnforced"
    if not observed.probing:
        return unknown(
            kind,
            "NotProbed",
            "the operator does not probe here (ZIMAGE_OPERATOR_PROBE_INTERVAL_SECONDS is 0)",
        )
    if observed.blind:
        text = "the operator's own namespace is allowed to reach the workers, so it cannot see what strangers see"
        return unknown(kind, "NotProbed", text)
    ready = [pod for pod in current_pods(observed) if pod.ready]
    found = [observed.reports[pod.uid] for pod in ready if pod.uid in observed.reports]
    results = {report.isolation for report in found}
    if "open" in results:
        text = f"port {HTTP_PORT} answered the operator, which is not in an allowed namespace"
        return false(kind, "NotEnforced", f"{text}: {suspicion(service, observed)}")
    if "unreachable" in results:
        text = f"neither port {MANAGEMENT_PORT} nor {HTTP_PORT} answered the operator, which shows nothing"
        return unknown(kind, "ProbeFailed", text)
    if ready and len(found) == len(ready) and results == {"blocked"}:
        return true(kind, "Enforced", f"a probe reached port {MANAGEMENT_PORT} and was kept from {HTTP_PORT}")
    return unknown(kind, "NotProbed", "no worker is ready to be probed yet")


def suspicion(service: ZImageService, observed: Observed) -> str:
    """Say why a policy that stands does not hold: by the hole that the audit has found, if it has."""
    found = next((hole for hole in observed.exposure.holes if hole.reason == WIDENS), None)
    if found:
        return found.message
    text = "either this cluster's network plugin does not enforce NetworkPolicies, or another policy opens the port"
    if service.spec.network.allowed_namespace_labels and observed.clients is None:
        return f"{text}, or the operator's own namespace carries the labels of network.allowedNamespaceLabels"
    return text


def exposure_as_declared(observed: Observed) -> Judgement:
    """Whether nothing of others opens the workers, or claims their host."""
    kind, holes = "ExposureAsDeclared", observed.exposure.holes
    if holes:
        return false(kind, holes[0].reason, summary(holes))
    return true(kind, "AsDeclared", "nothing beside this resource opens the workers")


def workload_ready(service: ZImageService, observed: Observed) -> Judgement:
    """Whether the wanted workers are there, at the current template."""
    kind = "WorkloadReady"
    refused = refusal(kind, observed, WORKLOAD_KINDS)
    if refused:
        return refused
    facts = observed.deployment
    if not observed.fetching.choice.ready:
        return unknown(kind, "WaitingForModel", "no worker is started before its model is complete")
    if facts is None or facts.observed_generation < facts.generation:
        return unknown(kind, "Progressing", "the Deployment is being rolled out")
    wanted = facts.wanted if service.spec.autoscaling else service.spec.replicas
    if facts.replicas == facts.updated == facts.available == wanted:
        reason = "Available" if wanted else "ScaledToZero"
        return true(kind, reason, f"{wanted} of {wanted} workers take requests")
    failure = facts.conditions.get("ReplicaFailure")
    if failure and failure.status == "True":
        return false(kind, "AdmissionRefused", f"the cluster refuses the worker's pod: {failure.message}")
    trouble = next((found for pod in current_pods(observed) if (found := pod_trouble(service, pod, observed))), None)
    if trouble:
        return false(kind, trouble.reason, trouble.message)
    progress = facts.conditions.get("Progressing")
    if progress and progress.reason == "ProgressDeadlineExceeded":
        seconds = service.spec.rollout.progress_deadline_seconds
        text = f"no progress for {seconds} s: see kubectl -n {service.namespace} describe pods"
        return false(kind, "ProgressDeadlineExceeded", text)
    phase = next((f" ({posture.phase})" for posture in postures(observed) if posture.phase not in ("", "ready")), "")
    return unknown(kind, "Progressing", f"{facts.available} of {wanted} workers take requests{phase}")


def pod_trouble(service: ZImageService, pod: PodFacts, observed: Observed) -> Problem | None:
    """Say what keeps a pod from running, and what to do about it."""
    if pod.unscheduled:
        return unscheduled(service, pod.unscheduled)
    if pod.waiting in IMAGE_REASONS:
        return Problem("ImagePullFailed", f"the worker's image cannot be pulled ({pod.waiting}): {pod.waiting_message}")
    if pod.waiting in CONFIG_REASONS:
        return Problem("ContainerConfigError", f"the container cannot be created: {pod.waiting_message}")
    if pod.last_exit == "OOMKilled" and not pod.ready:
        return Problem("OOMKilled", "the worker used more memory than resources.limits.memory: raise it")
    if pod.waiting == "CrashLoopBackOff":
        logs = f"kubectl -n {service.namespace} logs deployment/{service.name} --previous"
        return Problem("CrashLoop", f"the worker exits with code {pod.exit_code}: see {logs}")
    report = observed.reports.get(pod.uid)
    return next(iter(report.posture.model_problems), None) if report and report.posture else None


def unscheduled(service: ZImageService, text: str) -> Problem:
    """Translate the scheduler's message. Its own words follow: they name the nodes' reasons."""
    gpu, source = service.spec.gpu, service.model.source
    device = gpu.device_class_name if gpu.claimed else gpu.extended_resource
    if isinstance(source, ClaimSource) and f'persistentvolumeclaim "{source.claim_name}" not found' in text:
        advice = "create it, or correct spec.model.persistentVolumeClaim.claimName"
        return Problem("VolumeMissing", f"PersistentVolumeClaim {source.claim_name} does not exist: {advice}")
    if "unbound immediate PersistentVolumeClaims" in text:
        return Problem("VolumePending", f"the model's volume is not bound yet: {text}")
    if gpu.claimed and "device class" in text and "does not exist" in text:
        return Problem("DeviceClassMissing", f"DeviceClass {device} does not exist: see kubectl get deviceclasses")
    if device and (f"Insufficient {device}" in text or (gpu.claimed and "cannot allocate all claims" in text)):
        return Problem("WaitingForGPU", f"no node has {gpu.count} free {device}: {text}")
    return Problem("Unschedulable", f"no node can take the worker: {text}")


def suspended(service: ZImageService, observed: Observed) -> Judgement:
    """Whether nothing runs any more, and nothing is published."""
    kind, facts = "Suspended", observed.deployment
    refused = refusal(kind, observed, WORKLOAD_KINDS)
    if refused:
        return refused
    published = any(ref.kind in PUBLISHING_KINDS for ref in observed.existing)
    count = len(observed.pods) + observed.fetching.running
    if facts is None or facts.observed_generation < facts.generation or facts.replicas or count or published:
        return unknown(kind, "Stopping", f"{count} pod{'' if count == 1 else 's'} still to end")
    return true(kind, "Suspended", "no worker runs and nothing is published: write suspend: false to go on")


def template_update_available(service: ZImageService, observed: Observed) -> Judgement | None:
    """Say that running workers keep the template of a former operator; absent where they do not."""
    if not observed.outdated:
        return None
    advice = "the next change that restarts workers brings it, or suspend: true and back"
    return true("TemplateUpdateAvailable", "OperatorUpgraded", f"this operator builds a newer template: {advice}")


def auth_configured(service: ZImageService, observed: Observed, now: datetime) -> Judgement:
    """Whether the workers loaded the credentials that the resource names."""
    kind, auth = "AuthConfigured", service.auth
    if auth.in_force == "None":
        return false(kind, "Waived", f"everybody may use this service: {auth.waiver_reason}")
    refused = next((item for item in observed.refused if item.kind == "Secret"), None)
    if refused:
        status = "Unknown" if isinstance(refused, Issuing) else "False"
        return Judgement(kind, status, refused.reason, refused.message)
    if not observed.probing:
        return unknown(
            kind,
            "NotProbed",
            "the operator does not ask the workers here; a ready worker has its credentials",
        )
    found = postures(observed)
    problem = next((item for posture in found for item in posture.auth_problems), None)
    if problem:
        return false(kind, problem.reason, f"{credential_source(service, problem)}: {problem.message}")
    if not found:
        return unknown(kind, "WaitingForWorker", "no worker has reported what it loaded yet")
    return (
        open_to_strangers(service, observed)
        or replaced(service, observed, found, now)
        or loaded(service, observed, found)
    )


def open_to_strangers(service: ZImageService, observed: Observed) -> Judgement | None:
    """Say that the published URL let somebody in who showed no credentials."""
    edge, url = observed.edge, address(service, observed)
    if not (url and edge and edge.result == "open"):
        return None
    text = f"{url} answered a request without credentials ({edge.detail})"
    advice = "look for another route to this host, or for a proxy that logs in itself"
    return false("AuthConfigured", "EdgeOpen", f"{text}: {advice}")


def credential_source(service: ZImageService, problem: Problem) -> str:
    """Name the object that a problem is about; the worker names the folder that it is mounted at."""
    auth = service.auth
    if auth.jwt and (JWKS_MOUNT in problem.message or not auth.basic):
        jwks = auth.jwt.jwks
        return (
            f"ConfigMap {jwks.config_map_name}" if jwks.config_map_name else named_source(jwks.secret_name, "jwks.url")
        )
    if auth.token and SIGNING_MOUNT in problem.message:
        return named_source(auth.token.signing_key_secret_name, "auth.token")
    # With keys by URL beside a htpasswd file the message alone tells: it has the address.
    url = auth.jwt.jwks.url if auth.jwt else None
    return "jwks.url" if url and url in problem.message else f"Secret {service.basic_secret}"


def named_source(secret: str | None, otherwise: str) -> str:
    return f"Secret {secret}" if secret else otherwise


def replaced(service: ZImageService, observed: Observed, found: list[Posture], now: datetime) -> Judgement | None:
    """Say that the workers hold another htpasswd file than the one that was made up."""
    receipt = observed.receipt
    if not service.generated or not receipt or all(item.basic_sha256 == receipt.sha256 for item in found):
        return None
    if now - receipt.created < KUBELET_PATIENCE:
        return unknown("AuthConfigured", "WaitingForWorker", "the new credentials are on their way to the workers")
    text = (
        f"Secret {service.basic_secret} does not hold what the operator made up: delete it to have new credentials, "
        "or write auth.basic.secretName to keep users of your own"
    )
    return false("AuthConfigured", "NotOwned", text)


def loaded(service: ZImageService, observed: Observed, found: list[Posture]) -> Judgement:
    """Say what the workers loaded, or that nobody could sign in with it."""
    kind, auth = "AuthConfigured", service.auth
    users, keys = min(posture.users for posture in found), min(len(posture.key_ids) for posture in found)
    if auth.basic and users == 0:
        text = f"Secret {service.basic_secret} holds no user: add one with htpasswd -B"
        return false(kind, "SecretMalformed", text)
    if (auth.jwt or auth.tokens) and keys == 0:
        return false(kind, "SecretMalformed", "the workers hold no key that could verify a token")
    parts = [f"Basic authentication with {users} user{'s' if users > 1 else ''}"] if auth.basic else []
    parts += [f"tokens of {auth.jwt.issuer}"] if auth.jwt else []
    parts += ["tokens of POST /token"] if auth.tokens else []
    told = ", ".join(parts) + (f" ({keys} keys)" if keys > 1 else "")
    outside = seen_from_outside(observed.edge) if address(service, observed) else ""
    return true(kind, "Loaded", f"{told}{outside}")


def seen_from_outside(edge: EdgeReport | None) -> str:
    """Say what the published URL answered to a request without credentials."""
    if edge is None:
        return ""
    if edge.result == "refused":
        return f"; strangers are refused at the published URL ({edge.detail})"
    return f"; what strangers meet at the published URL could not be told ({edge.detail})"


def certificate_ready(service: ZImageService, observed: Observed, now: datetime) -> Judgement | None:
    """Whether the edge's certificate is there, matches the host and is valid now."""
    kind, ingress = "CertificateReady", service.spec.ingress
    if ingress is None or ingress.tls is None or not ingress.enabled:
        return None
    secret = service.tls_secret
    if ingress.tls.issuer_ref and (found_issuing := issuing(service, ingress.tls.issuer_ref, observed)):
        return found_issuing
    if not observed.probing:
        return unknown(kind, "NotProbed", "the operator does not ask the workers here")
    found = [posture for posture in postures(observed) if posture.certificate_wanted]
    problem = next((item for posture in found for item in posture.certificate_problems), None)
    if problem:
        return false(kind, problem.reason, f"Secret {secret}: {problem.message}")
    if not found:
        return unknown(kind, "WaitingForWorker", "no worker has reported the certificate yet")
    if any(posture.not_after and posture.not_after <= now for posture in found):
        return false(kind, "CertificateExpired", f"the certificate in Secret {secret} has expired: renew it")
    if not all(posture.matches_host for posture in found):
        names = ", ".join(found[0].dns_names) or "no name"
        text = f"the certificate in Secret {secret} is for {names}, not for {ingress.host}"
        return false(kind, "HostMismatch", text)
    return true(kind, "Loaded", f"the certificate in Secret {secret} covers {ingress.host}")


def issuing(service: ZImageService, issuer: IssuerRef, observed: Observed) -> Judgement | None:
    """Say how far cert-manager is with the certificate; None once it is there."""
    kind, target = "CertificateReady", Ref("Certificate", service.namespace, f"{service.name}-{TLS}")
    refused = refusal(kind, observed, frozenset({"Certificate"}))
    if refused:
        return refused
    verdict = observed.verdicts.get(target)
    if verdict and verdict.state == "accepted":
        return None
    told = f" ({verdict.message})" if verdict and verdict.message else ""
    look = f"kubectl -n {service.namespace} describe certificate,certificaterequest"
    text = f"cert-manager has not issued Certificate {target.name} yet{told}: if it stays so, see {look}"
    return unknown(kind, "Issuing", f"{text}, and whether {issuer.kind} {issuer.name} exists and is ready")


def unprotected(service: ZImageService, observed: Observed) -> bool:
    """Whether a route must go: host or protection are somebody else's, or the policy was shown not to hold."""
    if observed.exposure.rival or observed.entrance.unsafe:
        return True
    foreign = any(isinstance(item, NotOwned) and item.kind in PROTECTION_KINDS for item in observed.refused)
    required = service.spec.network.enforcement == "Required"
    return foreign or (required and network_policy_enforced(service, observed).status == "False")


def withheld(service: ZImageService, observed: Observed, now: datetime) -> Judgement | None:
    """Say why the route must not be applied; None where it may.

    A new route needs evidence that everything behind it stands. One that exists is not held up
    by missing evidence: a worker that restarts, or an operator that does, is no reason.
    """
    kind, rival, entrance = "IngressReady", observed.exposure.rival, observed.entrance
    if entrance.reason:
        return false(kind, entrance.reason, entrance.message)
    if rival:
        return false(kind, rival.reason, rival.message)
    first = next((item for item in observed.refused if item.kind not in MONITORING_KINDS), None)
    if first:
        return false(kind, first.reason, first.message)
    enforced = network_policy_enforced(service, observed)
    exists = route(service) in observed.existing
    lacking = service.spec.network.enforcement == "Required" and enforced.status != "True"
    if lacking and not (exists and enforced.status == "Unknown"):
        return unknown(
            kind,
            "WaitingForEnforcement",
            f"no route before the policy is seen to block: {enforced.message}",
        )
    if exists:
        return None
    missing = not_in_place(service, observed, now)
    return unknown(kind, "WaitingForWorker", f"no route before {missing} to be in place") if missing else None


def not_in_place(service: ZImageService, observed: Observed, now: datetime) -> str:
    """Say what a new route still waits for; empty if for nothing."""
    if not observed.probing:
        return "" if workload_ready(service, observed).status == "True" else "the workers are known"
    auth, certificate = auth_configured(service, observed, now), certificate_ready(service, observed, now)
    missing = [] if auth.reason == "Waived" or auth.status == "True" else ["the credentials"]
    missing += [] if certificate is None or certificate.status == "True" else ["the certificate"]
    return f"{' and '.join(missing)} are known" if missing else ""


def ingress_ready(service: ZImageService, observed: Observed, now: datetime) -> Judgement | None:
    """Whether the route and all its helpers are applied, and taken by the edge where it says so."""
    kind, published, entrance = "IngressReady", service.spec.routed, observed.entrance
    if published is None:
        return None
    if entrance.reason:
        return false(kind, entrance.reason, entrance.message)
    refused = refusal(kind, observed, ROUTE_KINDS)
    if refused:
        return refused
    rival = observed.exposure.rival
    if rival:
        return false(kind, rival.reason, rival.message)
    if route(service) not in observed.existing:
        return withheld(service, observed, now) or unknown(kind, "Applying", "the route is being applied")
    return taken(service, observed) or true(kind, "Published", told(published.host, entrance))


def taken(service: ZImageService, observed: Observed) -> Judgement | None:
    """Say what the edge's controller has against the route, or that it has not answered; None where it has taken it."""
    kind = "IngressReady"
    ours = {ref: one for ref, one in observed.verdicts.items() if ref.kind in ROUTE_KINDS}
    for ref, message in refused_by_edge(ours):
        return false(kind, "RefusedByEdge", f"the edge does not take {ref.kind} {ref.name}: {message}")
    # A Policy of F5's is told of only where something is wrong with it, or where it is used.
    waiting = sorted(ref for ref, one in ours.items() if one.state == "pending" and ref.kind != "Policy")
    if not waiting:
        return None
    gateway = service.spec.gateway
    whom = f"Gateway {gateway.parent_ref.name}" if gateway else "the edge"
    text = f"{whom} has not answered yet whether it takes {waiting[0].kind} {waiting[0].name}"
    return unknown(kind, "WaitingForGateway", f"{text}: is its controller running?")


def told(host: str, entrance: Entrance) -> str:
    """Say where it is published, who sees to what, and what everybody should know of this edge."""
    left = f"; by the workers alone: {', '.join(entrance.left)}" if entrance.left else ""
    return f"https://{host}/ by {entrance.dialect}{left}{'; ' if entrance.note else ''}{entrance.note}"


def route(service: ZImageService) -> Ref:
    """Name the object that publishes a service."""
    return Ref("HTTPRoute" if service.spec.gateway else "Ingress", service.namespace, service.name)


def monitoring_ready(service: ZImageService, observed: Observed) -> Judgement | None:
    """Whether a PodMonitor stands; absent where none is wanted."""
    kind = "MonitoringReady"
    refused = refusal(kind, observed, MONITORING_KINDS)
    if refused:
        return refused
    if Ref("PodMonitor", service.namespace, service.name) not in observed.existing:
        return None
    names = ", ".join(service.spec.network.metrics_namespaces) or "no namespace (write network.metricsNamespaces)"
    text = f"a Prometheus that selects PodMonitor {service.name} scrapes port {MANAGEMENT_PORT}"
    return true(kind, "Applied", f"{text}; the policy lets it in from {names}")


# What can be true or false without a single worker.
STANDING = frozenset({"NetworkPolicyReady", "ModelReady", "WorkloadReady", "IngressReady", "Suspended"})


def gates(service: ZImageService, judgements: list[Judgement]) -> list[Judgement]:
    """Give the conditions that Ready depends on, in the order in which a person should mend them."""
    harmless = {"NotProbed", "Waived"}
    if service.spec.stopped:
        # Where no worker is to run none can report, and nothing that only a worker shows is waited for.
        judgements = [item for item in judgements if item.status != "Unknown" or item.type in STANDING]
    if service.spec.network.enforcement == "Required":
        harmless = {"Waived"}
    optional = {"ExposureAsDeclared", "TemplateUpdateAvailable", "MonitoringReady"}
    optional |= {"NetworkPolicyEnforced"} if service.spec.network.enforcement == "Report" else set()
    return [
        item
        for item in judgements
        if item.type not in optional and not (item.status != "True" and item.reason in harmless)
    ]


def ready(service: ZImageService, judgements: list[Judgement]) -> Judgement:
    """Judge the whole: the first gate that fails, else the first that is under way."""
    gating = gates(service, judgements)
    for state in ("False", "Unknown"):
        found = next((item for item in gating if item.status == state), None)
        if found:
            return Judgement("Ready", state, found.reason, found.message)
    if service.spec.suspend:
        return true("Ready", "Suspended", "suspended as asked: nothing runs and nothing is published")
    routed, later = service.spec.routed, " for now (enabled: false)" if service.spec.published else ""
    where = f"https://{routed.host}/" if routed else f"inside the cluster only{later}"
    return true("Ready", "Ready", f"serving, {where}")


def status(service: ZImageService, observed: Observed, previous: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Build the whole status of a service with a sound spec."""
    parts: list[Judgement | None]
    if service.spec.suspend:
        parts = [suspended(service, observed), network_policy_ready(service, observed), exposure_as_declared(observed)]
    else:
        parts = [
            network_policy_ready(service, observed),
            model_ready(service, observed),
            workload_ready(service, observed),
            network_policy_enforced(service, observed),
            exposure_as_declared(observed),
            auth_configured(service, observed, now),
            certificate_ready(service, observed, now),
            ingress_ready(service, observed, now),
            monitoring_ready(service, observed),
            template_update_available(service, observed),
        ]
    judgements = [item for item in parts if item]
    total = ready(service, judgements)
    extra = []
    if total.status == "Unknown":
        extra = [true("Reconciling", total.reason, total.message)]
    elif total.reason == "ProgressDeadlineExceeded":
        extra = [true("Stalled", total.reason, total.message)]
    facts, url = observed.deployment, address(service, observed)
    selector = ",".join(f"{key}={value}" for key, value in sorted(selector_labels(service.name).items()))
    document: dict[str, Any] = {
        "observedGeneration": service.generation,
        "conditions": dated([total, *judgements, *extra], service.generation, previous, now),
        "auth": service.auth.in_force,
        "gpu": device(service),
        "replicas": facts.replicas if facts else 0,
        "readyReplicas": facts.ready if facts else 0,
        "selector": selector,
    }
    expiry = min((item.not_after for item in postures(observed) if item.not_after), default=None)
    optional: dict[str, Any] = {
        "url": url,
        "dialect": observed.entrance.dialect,
        "templateRevision": facts.revision if facts else "",
        "certificate": {"notAfter": rfc3339(expiry)} if expiry else None,
        "exposures": exposures(observed.exposure.holes),
        "model": model_facts(observed, postures(observed)),
    }
    document |= {key: value for key, value in optional.items() if value}
    looks = [observed.reports[pod.uid] for pod in current_pods(observed) if pod.ready and pod.uid in observed.reports]
    times = [look.at for look in looks if look.at and look.isolation != "untested"]
    return document | last_probe(document, times, previous)


def device(service: ZImageService) -> str:
    """Say what each worker owns, for `kubectl get`."""
    gpu = service.spec.gpu
    if not gpu.count:
        return "none"
    return f"{gpu.count} {gpu.device_class_name} (claim)" if gpu.claimed else f"{gpu.count} {gpu.extended_resource}"


def address(service: ZImageService, observed: Observed) -> str:
    """Give the published address, once there is one."""
    published = service.spec.routed
    return f"https://{published.host}/" if published and route(service) in observed.existing else ""


def stalled(body: Mapping[str, Any], error: InvalidSpec, previous: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Build the status of a spec that cannot be done; only the user can mend it."""
    generation = int(body["metadata"]["generation"])
    judgements = [false("Ready", error.reason, str(error)), true("Stalled", error.reason, str(error))]
    return {"observedGeneration": generation, "conditions": dated(judgements, generation, previous, now)}


def dated(
    judgements: list[Judgement], generation: int, previous: Mapping[str, Any], now: datetime
) -> list[dict[str, Any]]:
    """Add generation and time of transition; a status that did not change keeps its time."""
    before = {item["type"]: item for item in previous.get("conditions") or ()}
    documents = []
    for item in judgements:
        old = before.get(item.type)
        kept = old["lastTransitionTime"] if old and old["status"] == item.status else rfc3339(now)
        documents.append(
            {
                "type": item.type,
                "status": item.status,
                "reason": item.reason,
                "message": item.message,
                "observedGeneration": generation,
                "lastTransitionTime": kept,
            }
        )
    return documents


def rfc3339(moment: datetime) -> str:
    """Write a time as Kubernetes does: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
