"""The cluster's certificate authority, its certificates and kubeconfigs."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# A cluster lives for minutes, one that was asked to stay for some days.
LIFETIME = datetime.timedelta(days=30)
# Clocks of containers and hosts may differ a little.
BEFORE = datetime.timedelta(minutes=5)


class Pki:
    """Writes NAME.crt and NAME.key into one folder, all signed by its own CA."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca_key = ec.generate_private_key(ec.SECP256R1())
        self.ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])
        self.ca_crt = directory / "ca.crt"
        self._write_key("ca", self.ca_key)
        usage = key_usage(key_cert_sign=True, crl_sign=True)
        builder = self._builder(self.ca_name, self.ca_key.public_key()).add_extension(usage, critical=True)
        authority = x509.BasicConstraints(ca=True, path_length=None)
        self._sign("ca", builder.add_extension(authority, critical=True))

    def service_account_key(self) -> None:
        """The pair with which ServiceAccount tokens are signed and verified: sa.key, sa.pub."""
        key = ec.generate_private_key(ec.SECP256R1())
        self._write_key("sa", key)
        pem, info = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        (self.directory / "sa.pub").write_bytes(key.public_key().public_bytes(pem, info))

    def client(self, name: str, user: str, group: str = "") -> None:
        """A client certificate: Kubernetes reads the user from CN and the group from O."""
        parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
        subject = x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, user)])
        self._issue(name, subject, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def server(self, name: str, names: list[str]) -> None:
        """A serving certificate for DNS names and addresses."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._issue(name, subject, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def kubeconfig(self, name: str, server: str) -> Path:
        """Write NAME.kubeconfig for the client certificate NAME, everything inside one file."""
        path = self.directory / f"{name}.kubeconfig"
        user = {
            "client-certificate-data": encoded(self.directory / f"{name}.crt"),
            "client-key-data": encoded(self.directory / f"{name}.key"),
        }
        write_kubeconfig(path, server, self.ca_crt, user)
        return path

    def _issue(self, name: str, subject: x509.Name, usage: x509.ObjectIdentifier, names: list[str]) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self._write_key(name, key)
        builder = self._builder(subject, key.public_key()).add_extension(key_usage(), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            alternatives = x509.SubjectAlternativeName([general_name(item) for item in names])
            builder = builder.add_extension(alternatives, critical=False)
        self._sign(name, builder)

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BEFORE)
            .not_valid_after(now + LIFETIME)
        )

    def _sign(self, name: str, builder: x509.CertificateBuilder) -> None:
        certificate = builder.sign(self.ca_key, hashes.SHA256())
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (self.directory / f"{name}.crt").write_bytes(pem)

    def _write_key(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        path = self.directory / f"{name}.key"
        path.touch(mode=0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


def key_usage(*, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def write_kubeconfig(path: Path, server: str, ca_crt: Path, user: dict[str, str]) -> None:
    """Write a kubeconfig (JSON is YAML too) that only its owner can read."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [
            {
                "name": "test",
                "cluster": {"server": server, "certificate-authority-data": encoded(ca_crt)},
            }
        ],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(document, indent=1))
