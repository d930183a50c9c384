"""cert-manager's Certificate, where the user names an issuer and no Secret."""

from __future__ import annotations

from ..manifest import Manifest, manifest
from ..names import TLS
from ..spec import ZImageService


def certificate(service: ZImageService) -> list[Manifest]:
    """Build the Certificate that fills Secret NAME-tls; none where the Secret is the user's own.

    The Secret stays when the Certificate goes: cert-manager's rule, and nobody here may delete Secrets.
    """
    ingress = service.spec.ingress
    if not ingress or not ingress.tls or not ingress.tls.issuer_ref:
        return []
    issuer = ingress.tls.issuer_ref
    spec = {
        "secretName": service.tls_secret,
        "dnsNames": [ingress.host],
        "issuerRef": {"name": issuer.name, "kind": issuer.kind, "group": issuer.group},
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        "usages": ["server auth"],
    }
    return [manifest("cert-manager.io/v1", "Certificate", service, TLS, spec=spec)]
