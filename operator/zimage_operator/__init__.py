"""The operator: ZImageService in, secured image service out. Start reading at reconcile.py."""

__version__ = "0.1.0"
