"""The endpoints of the API port: one short function each; statuses are decided in errors.py."""
