"""What of a request may stand in a log or a label. Strangers put secrets in every place; pure."""

from __future__ import annotations

from collections.abc import Collection

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
# So much of a path tells what somebody looked for; more is a bomb.
SEGMENTS_MAX = 16


def known_method(method: str) -> str:
    """The method, or `other`: a stranger invents as many as he likes."""
    return method if method in METHODS else "other"


def known_path(path: str, words: Collection[str]) -> str:
    """The path with `*` for each segment that no route of ours has: it may be a token or a prompt.

    `/v1/image/generations` becomes `/v1/*/generations`: who mistypes still finds the mistake.
    """
    segments = path.split("/")
    shown = "/".join(segment if segment in words else "*" for segment in segments[:SEGMENTS_MAX])
    return shown + "/..." * (len(segments) > SEGMENTS_MAX)


def origin(referer: str) -> str:
    """Scheme and host of a Referer: its path and query are other sites' business, its user nobody's."""
    scheme, separator, rest = referer.partition("://")
    if not separator or scheme.lower() not in {"http", "https"}:
        return ""
    host = rest.replace("?", "/").replace("#", "/").partition("/")[0]
    return f"{scheme}://{host.rpartition('@')[2]}"


def words_of(paths: Collection[str]) -> frozenset[str]:
    """Every segment of our own routes' paths; parameters are not ours."""
    return frozenset(word for path in paths for word in path.split("/") if not word.startswith("{"))
