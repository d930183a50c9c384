"""Debian's nginx in the place of controllers that cannot run here: what their documents say becomes of the objects.

Not the controllers themselves: F5's wants its own image, and of "any other" there is no one. The annotations and
Policies that the operator writes are turned into the directives that the vendor documents for them, nothing else.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.ports import free_ports

from .town import Town
from .traefik import opened

Item = dict[str, Any]
F5 = "nginx.org/"
MAIN = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log info; worker_processes 1;
events {{ worker_connections 512; }}
http {{
  log_format seed '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" '
                  '"$http_user_agent" $request_time';
  access_log {folder}/access.log seed;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  ssl_protocols TLSv1.2 TLSv1.3; server_names_hash_bucket_size 128;
  server {{ listen 127.0.0.1:{secure} ssl default_server; ssl_reject_handshake on; server_tokens off; return 404; }}
  server {{ listen 127.0.0.1:{plain} default_server; server_tokens off; return 404; }}
  {servers}
}}
"""
SERVER = """
  {zone}
  server {{ listen 127.0.0.1:{plain}; server_name {host}; server_tokens off; return 308 https://$host$request_uri; }}
  server {{
    listen 127.0.0.1:{secure} ssl; server_name {host}; server_tokens off; client_max_body_size {body};
    ssl_certificate {folder}/tls.crt; ssl_certificate_key {folder}/tls.key;
    # Another Host than the one of the handshake is somebody else's (HTTP 421).
    if ($host != {host}) {{ return 421; }}
    location / {{
      {rules}
      proxy_http_version 1.1; proxy_pass http://{worker};
      {headers}
    }}
    {more}
  }}
"""
HEADERS = """proxy_set_header Host $host; proxy_set_header Connection ""; proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Host $host;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Port $server_port;"""
ASKS = """location = /_external_auth {{ internal; proxy_pass http://{worker}{uri}; proxy_pass_request_body off;
      proxy_set_header Content-Length ""; {headers} }}"""


def program() -> str | None:
    return shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")


def f5_rules(name: str, noted: dict[str, str], policies: list[Item], worker: str) -> tuple[str, str, str]:
    """The zone, the rules of the location, and another location, for F5's annotations and Policies."""
    zone = (
        f"limit_req_zone $binary_remote_addr zone={name}:{noted['limit-req-zone-size']} rate={noted['limit-req-rate']};"
    )
    rules = [
        f"limit_req zone={name} burst={noted['limit-req-burst']} nodelay;",
        f"limit_req_status {noted['limit-req-reject-code']};",
        f"proxy_read_timeout {noted['proxy-read-timeout']};",
        f"proxy_buffering {'off' if noted['proxy-buffering'] == 'False' else 'on'};",
    ]
    more = ""
    for spec in (item["spec"] for item in policies):
        if "accessControl" in spec:
            rules += [*(f"allow {one};" for one in spec["accessControl"]["allow"]), "deny all;"]
        if "externalAuth" in spec:
            rules.append("auth_request /_external_auth;")
            more = ASKS.format(worker=worker, uri=spec["externalAuth"]["authURI"], headers=HEADERS)
    return zone, "\n      ".join(rules), more


def server(town: Town, item: Item, objects: list[Item], **places: Any) -> str:
    """One Ingress as a server."""
    key, host = item["metadata"]["name"], item["spec"]["rules"][0]["host"]
    worker = f"{town.address(key)}:7860"
    noted = {name.removeprefix(F5): text for name, text in item["metadata"].get("annotations", {}).items()}
    named = noted.get("policies", "").split(",")
    policies = [one for one in objects if f"{one['metadata'].get('namespace')}/{one['metadata']['name']}" in named]
    zone, rules, more = "", "proxy_buffering off; proxy_read_timeout 900s;", ""
    if noted:
        zone, rules, more = f5_rules(key, noted, policies, worker)
    body = noted.get("client-max-body-size", "0")
    return SERVER.format(
        zone=zone, body=body, host=host, worker=worker, rules=rules, more=more, headers=HEADERS, **places
    )


@contextmanager
def running(name: str, town: Town, folder: Path) -> Iterator[dict[str, int]]:
    """Run it with everything that the operator writes for this edge; gives its ports."""
    secure, plain = free_ports(2)
    for part, text in zip(("crt", "key"), town.certificate(name), strict=True):
        (folder / f"tls.{part}").write_text(text)
    objects = list(town.objects(name))
    places = {"secure": secure, "plain": plain, "folder": folder}
    servers = [server(town, item, objects, **places) for item in objects if item["kind"] == "Ingress"]
    (folder / "nginx.conf").write_text(MAIN.format(servers="\n".join(servers), **places))
    command = [str(program()), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        opened(secure, process, folder / "out")
        yield {"websecure": secure, "web": plain}
    finally:
        process.terminate()
        process.wait(30)
