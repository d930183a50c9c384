"""Every way in which the operator fails; the type alone decides what happens next.

OperatorError
├── InvalidSpec           the user's to mend: Stalled, no retry before the generation changes
│   ├── NotAllowed        it asks for more than this operator's settings let anybody ask for
│   └── DoesNotFit        not even the smallest way of keeping the model fits the GPU that is stated
├── Refused               one child could not be brought in place: reported, tried again later
│   ├── NotOwned          an object of that name is there and is not ours
│   ├── Rejected          the API server or an admission plugin said no
│   ├── Altered           the API server stored something else than what we sent
│   ├── KindMissing       the API server does not know the kind (a CRD is not installed)
│   │   ├── MonitoringMissing
│   │   ├── ClaimsMissing its Kubernetes is too old for claims of devices
│   │   └── CertManagerMissing
│   └── Issuing           generated credentials wait until the old ones are cleared away
├── Conflict              somebody wrote at the same moment: again, at once
├── NamespaceTerminating  nothing can be created there any more: stop, without a retry
├── ClusterUnavailable    no answer, or 429 and 5xx for too long: again, with back-off
├── BadSettings           the operator's own configuration: exit code 2
└── ForeignFiles          `render -o` would write over files of others: nothing is written
"""

from __future__ import annotations


class OperatorError(Exception):
    """The root: whatever the operator itself raises."""


class InvalidSpec(OperatorError):
    """A resource got past admission and still says something that cannot be done."""

    reason = "InvalidSpec"


class NotAllowed(InvalidSpec):
    """A resource goes beyond the bounds that the operator's administrator has set (bounds.py)."""

    reason = "NotAllowed"


class DoesNotFit(InvalidSpec):
    """The pictures that are asked for do not fit into the GPU memory that is stated."""

    reason = "DoesNotFit"


class Refused(OperatorError):
    """One child was not brought in place; `kind` and `name` say which, the text says why."""

    reason = "ApplyFailed"

    def __init__(self, kind: str, name: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.name, self.message = kind, name, message


class NotOwned(Refused):
    """An object of the wanted name exists and our resource is not its controller."""

    reason = "NotOwned"


class Rejected(Refused):
    """The API server answered 4xx, `code`: schema, quota, admission or missing rights."""

    def __init__(self, kind: str, name: str, message: str, code: int) -> None:
        super().__init__(kind, name, message)
        self.code = code


class Altered(Refused):
    """A protection does not stand as wanted: something in the API server changes it on its way in."""

    reason = "AlteredOnAdmission"


class KindMissing(Refused):
    """The kind is not served: its CRD is not installed in this cluster."""

    reason = "DialectUnsupported"


class ClaimsMissing(KindMissing):
    """resource.k8s.io/v1 is not served: Kubernetes before 1.34."""

    reason = "DeviceClaimsUnsupported"


class MonitoringMissing(KindMissing):
    """monitoring.coreos.com/v1 is not served."""

    reason = "MonitoringUnsupported"


class CertManagerMissing(KindMissing):
    """cert-manager.io/v1 is not served."""

    reason = "CertManagerMissing"


class Issuing(Refused):
    """Generated credentials cannot be made yet: the garbage collector still clears the old ones away."""

    reason = "IssuingCredentials"


class Conflict(OperatorError):
    """409: the object changed between our look and our write."""


class NamespaceTerminating(OperatorError):
    """The namespace is on its way out and takes the resource along."""


class ClusterUnavailable(OperatorError):
    """The API server did not answer, or not with an answer that we can act on."""


class BadSettings(OperatorError):
    """One line per mistake in the environment."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ForeignFiles(OperatorError):
    """Files are in the way that we have not written, or that were changed since."""

    def __init__(self, paths: list[str]) -> None:
        lines = [
            f"{path}: not written by this command, or changed since: move it away, or choose another folder"
            for path in paths
        ]
        super().__init__("\n".join(lines))
