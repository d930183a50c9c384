"""nginx.conf of the DMZ host; measured with nginx 1.22 (tests/standalone)."""

from __future__ import annotations

from math import ceil

from ...quantities import quantity
from .order import Order
from .template import filled

# Above the longest life of a request: then it is the worker that ends it, with an answer.
ABOVE_SECONDS = 60


def text(order: Order) -> str:
    """Write the file."""
    ingress = order.ingress
    limit = ingress.rate_limit
    # nginx admits one more than `burst` at once.
    burst = f" burst={limit.burst - 1} nodelay" if limit.burst > 1 else ""
    body = ingress.max_body_size
    read_seconds = ingress.read_timeout_seconds
    # Until the next request of this address may pass.
    wait_seconds = ceil(60 / limit.requests_per_minute)
    values = {
        "HEAD": order.head,
        "HOST": ingress.host,
        "FOLDER": order.edge_folder,
        "UPSTREAM": order.hosts.upstream,
        "PER_MINUTE": limit.requests_per_minute,
        "BURST": burst,
        "RETRY": "$wait" if order.asks else wait_seconds,
        "GUESSER_WAITS": f'map $guesser $wait {{ "" {wait_seconds}; default $guesser; }}' if order.asks else "",
        "BODY": body,
        "BODY_BYTES": int(quantity(body)),
        "READ_SECONDS": max(read_seconds, order.service.spec.generation.request_timeout_seconds + ABOVE_SECONDS),
        "CALLER": caller(order),
        "RANGES": ranges(order),
        "OUTSIDERS": OUTSIDERS if ingress.allowed_source_ranges else "",
        "AUTHENTICATION": authentication(order),
        "GUESSERS": GUESSERS if order.asks else "",
        "HEADERS": headers(order),
        "LOCATIONS": locations(order),
    }
    return filled("nginx.conf", values)


def caller(order: Order) -> str:
    """Give the variable with the caller's proved name, for the access log."""
    return "$verified_user" if order.asks else "$remote_user" if order.checks_passwords else '"-"'


def ranges(order: Order) -> str:
    """Say who comes from outside the allowed ranges."""
    allowed = order.ingress.allowed_source_ranges
    if not allowed:
        return ""
    lines = [f"  {network} 0;" for network in allowed]
    return "\n".join(["# ---- who may come at all", "geo $outsider {", "  default 1;", *lines, "}", ""])


# Not allow and deny: beside `satisfy any` those would be a way around the password.
OUTSIDERS = """\
if ($outsider) {
  return 403;
}
"""

# The worker's 429 for too many guesses: auth_request knows no such answer (decision 0112).
GUESSERS = """\
if ($guesser) {
  return 429 '{"error": {"message": "Too many wrong credentials; wait as long as Retry-After says.", "type": \
"rate_limit_error", "param": null, "code": "rate_limit_exceeded"}}';
}
"""

ASKS = """\
# Passwords and tokens: the worker is asked, without the body; no answer is a refusal.
auth_request /_verify;
auth_request_set $verified_user $upstream_http_x_auth_user;
auth_request_set $guesser $upstream_http_retry_after;
"""

PASSWORDS = """\
# Passwords (bcrypt) are checked here, so that no stranger's request reaches the inner host; the worker checks again.
auth_basic zimage;
auth_basic_user_file {folder}/htpasswd;
"""

WAIVED = """\
# auth.mode None: everybody is let in (auth.waiverReason says why).
"""


def authentication(order: Order) -> str:
    """Build what asks for credentials."""
    if order.asks:
        return ASKS
    return PASSWORDS.format(folder=order.edge_folder) if order.checks_passwords else WAIVED


def headers(order: Order) -> str:
    """Build what the worker is told: what nginx has seen itself, and nothing that a client says of itself."""
    told = {
        "Host": order.ingress.host,
        "Connection": '""',
        "X-Forwarded-For": "$remote_addr",
        "X-Forwarded-Host": order.ingress.host,
        "X-Forwarded-Proto": "https",
        "X-Real-IP": "$remote_addr",
    }
    forgotten = ("Forwarded", "X-Auth-User", "X-Forwarded-User", "X-Forwarded-Prefix", "X-Original-URI", "Upgrade")
    told |= dict.fromkeys(forgotten, '""')
    return "\n".join(f"proxy_set_header {name} {value};" for name, value in told.items())


# A location that sets one header inherits none: all of them once more.
VERIFY = """\
location = /_verify {{
  internal;
  auth_request off;
  proxy_pass http://worker/auth/verify;
  proxy_pass_request_body off;
  proxy_set_header Content-Length "";
{headers}
}}
"""

# /token shows a password in a form, which no proxy reads: the worker's limits of guesses stand behind it.
SIGN_IN = """\
location = /token {
  auth_request off;
  proxy_pass http://worker/token;
}
"""


def locations(order: Order) -> str:
    """Build the paths that are not like the others."""
    indented = "\n".join(f"  {line}" for line in headers(order).splitlines())
    return "".join(
        [
            VERIFY.format(headers=indented) if order.asks else "",
            SIGN_IN if order.service.auth.tokens else "",
        ]
    )
