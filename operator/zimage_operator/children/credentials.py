"""The objects of generated credentials. What is in them is made up elsewhere (credentials.py); pure.

They form a chain of owners, so that Kubernetes' garbage collector answers what the operator may
not ask (docs/decisions/0220-secrets-that-are-never-read.md):

    ZImageService ← issue (ConfigMap) ← NAME-basic-auth ← NAME-credentials ← receipt (ConfigMap)

A Secret that goes takes the receipt along, which is watched. The issue that is deleted takes everything along.
"""

from __future__ import annotations

from ..manifest import Manifest, manifest
from ..names import BASIC_KEY, GENERATED_USER, HTPASSWD, ISSUE, LOGIN, RECEIPT
from ..spec import ZImageService


def issue(service: ZImageService) -> Manifest:
    """Build what the pair of Secrets belongs to: deleting it is all that the operator can do to them."""
    name = service.name
    about = f"Secrets {name}-{HTPASSWD} and {name}-{LOGIN} belong to this: deleted, they are made anew"
    return manifest("v1", "ConfigMap", service, ISSUE, data={"about": about})


def basic_secret(service: ZImageService, issue_uid: str, htpasswd: str) -> Manifest:
    """Build the Secret that the worker and the edge read. Not immutable: the kubelet would not see its successor."""
    item = manifest("v1", "Secret", service, HTPASSWD, type="Opaque", stringData={BASIC_KEY: htpasswd})
    return owned(item, "ConfigMap", f"{service.name}-{ISSUE}", issue_uid)


def password_secret(service: ZImageService, basic_uid: str, password: str) -> Manifest:
    """Build the Secret that people read."""
    data = {"username": GENERATED_USER, "password": password}
    item = manifest("v1", "Secret", service, LOGIN, type="kubernetes.io/basic-auth", stringData=data)
    return owned({**item, "immutable": True}, "Secret", f"{service.name}-{HTPASSWD}", basic_uid)


def receipt(service: ZImageService, password_uid: str, issue_uid: str, sha256: str) -> Manifest:
    """Build the object that lasts exactly as long as both Secrets do; `sha256` is that of the htpasswd file."""
    about = f"Lasts as long as Secrets {service.name}-{HTPASSWD} and {service.name}-{LOGIN} do"
    data = {"about": about, "issue": issue_uid, "sha256": sha256}
    item = manifest("v1", "ConfigMap", service, RECEIPT, data=data)
    return owned({**item, "immutable": True}, "Secret", f"{service.name}-{LOGIN}", password_uid)


def owned(item: Manifest, kind: str, name: str, uid: str) -> Manifest:
    """Give the item another owner: one alone, or it would outlive the first that goes."""
    owner = {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": True}
    return {**item, "metadata": {**item["metadata"], "ownerReferences": [{**owner, "blockOwnerDeletion": False}]}}
