"""Who gives each row of the table, edge by edge: the edge itself where nothing is written.

"worker": the answer comes from behind, because the edge asks the worker or leaves it to him. "- …": nobody gives
it there, and what that means. docs/edges.md is held against this (test_docs.py).
"""

from __future__ import annotations

ASKED = dict.fromkeys(("no_credentials", "wrong_credentials", "wrong_token"), "worker")
TRAEFIK = {"wrong_token": "worker", "body_size": "worker"}
GIVEN: dict[str, dict[str, str]] = {
    "traefik": TRAEFIK,
    "gateway-traefik": TRAEFIK,
    "gateway-envoy": {
        **ASKED,
        "body_size": "worker",
        "retry_after": "- Envoy's limit says no time; clients wait a minute",
        "user_in_log": "- Envoy's log has no name where the worker was asked; the worker's log has it",
    },
    "ingress-nginx": {
        **ASKED,
        "user_in_log": "- Traefik's log has no name where the worker was asked; the worker's log has it",
    },
    "f5-nginx": {"retry_after": "- nginx's limit says no time; clients wait a minute"},
    "plain": {
        **ASKED,
        **dict.fromkeys(("rate_limit", "retry_after", "body_size"), "worker"),
        "source_range": "- nobody: such a service is not published here, and the status says so",
    },
}


def table(titles: dict[str, str]) -> str:
    """The whole of it, as docs/edges.md shows it; `titles`: what each row asks for, by its name."""
    edges = list(GIVEN)
    lines = [f"| what a client meets | {' | '.join(edges)} |", f"|---|{'---|' * len(edges)}"]
    notes: list[str] = []
    for row, title in titles.items():
        cells = []
        for edge in edges:
            given = GIVEN[edge].get(row, "edge")
            if given.startswith("- "):
                notes.append(f"{len(notes) + 1}. {edge}, {row}: {given[2:]}.")
                given = f"no ({len(notes)})"
            cells.append(given)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *notes, ""])
