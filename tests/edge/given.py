"""Who gives each row of the table, edge by edge: the edge itself where nothing is written.

"worker": what the client meets comes from behind. "- …": nobody gives it there, and what that means.
docs/edges.md is held against this.
"""

from __future__ import annotations

GIVEN: dict[str, dict[str, str]] = {"traefik": {}, "ingress-nginx": {}, "gateway-traefik": {}}
