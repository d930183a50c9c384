"""The edge's public certificate, read for /posture: the operator may not read Secrets, the worker can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cryptography import x509

Reason = Literal["CertificateMissing", "CertificateMalformed"]


@dataclass(frozen=True)
class Certificate:
    """What is known of the certificate."""

    not_after: str | None = None
    dns_names: tuple[str, ...] = ()
    matches_host: bool = False
    problems: tuple[tuple[Reason, str], ...] = ()

    def document(self) -> dict[str, Any]:
        """As /posture shows it."""
        return {
            "notAfter": self.not_after,
            "dnsNames": list(self.dns_names),
            "matchesHost": self.matches_host,
            "problems": [{"reason": reason, "message": message} for reason, message in self.problems],
        }


def covers(name: str, host: str) -> bool:
    """RFC 6125: a wildcard stands for exactly one label, the left-most."""
    name, host = name.lower(), host.lower()
    if name.startswith("*."):
        first, _, rest = host.partition(".")
        return bool(first) and rest == name[2:]
    return name == host


def parse_certificate(content: bytes | None, path: str, host: str) -> Certificate:
    """The first certificate of the file (the leaf), held against the first allowed host."""
    if content is None:
        message = f"no certificate at {path}: the Secret or its key tls.crt is missing"
        return Certificate(problems=(("CertificateMissing", message),))
    try:
        leaf = x509.load_pem_x509_certificates(content)[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns_names = tuple(names.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        # Clients have ignored the common name for years: without names it covers nothing.
        dns_names = ()
    except (ValueError, IndexError, x509.DuplicateExtension):
        message = f"{path} is no PEM certificate; put the chain, leaf first, into the key tls.crt"
        return Certificate(problems=(("CertificateMalformed", message),))
    return Certificate(
        not_after=leaf.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        dns_names=dns_names,
        matches_host=any(covers(name, host) for name in dns_names),
    )
