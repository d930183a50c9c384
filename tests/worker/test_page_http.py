"""The page as programs see it: who gets it, under which policy, and what another site's page cannot do."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from zimage_worker.addresses import cross_site
from zimage_worker.assets import FOLDER, page, sign_in_ways
from zimage_worker.settings_auth import AuthMode, AuthSettings, TokenSettings

AUTH = ("alice", "canary-password-7f3a")
ROOT = Path(__file__).parents[2]
FILES = sorted(path.name for path in FOLDER.iterdir())


def test_mode_basic_shows_strangers_nothing(worker) -> None:
    for path in ("/", "/page/main.js", "/page/style.css", "/page/nothing"):
        answer = worker.api.get(path, headers={"X-Forwarded-For": "203.0.113.77"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_credentials")
        assert answer.headers["www-authenticate"].startswith("Basic ")


def test_the_page_and_its_policy(worker) -> None:
    answer = worker.api.get("/", auth=AUTH)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert 'name="sign-in" content=""' in answer.text
    # One of each: a second policy or cache rule would be joined to the first.
    for name in ("content-security-policy", "cache-control"):
        assert len(answer.headers.get_list(name)) == 1


@pytest.mark.parametrize("name", FILES)
def test_each_file_has_its_type_and_is_asked_about_again(worker, name: str) -> None:
    answer = worker.api.get(f"/page/{name}", auth=AUTH)
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])
    assert answer.headers["cache-control"] == "private, no-cache"
    again = worker.api.get(f"/page/{name}", auth=AUTH, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert worker.api.head(f"/page/{name}", auth=AUTH).status_code == 200


@pytest.mark.parametrize("path", ["/page/", "/page/nothing", "/page/..%2fassets.py", "/page/__init__.py", "/page/."])
def test_there_is_nothing_but_the_page_s_files(worker, path: str) -> None:
    assert worker.api.get(path, auth=AUTH).status_code == 404


def test_every_file_is_plain_and_from_here() -> None:
    """No address of another host, no inline script or style, no text that becomes HTML or code."""
    for name in FILES:
        text = (FOLDER / name).read_text()
        assert set(re.findall(r"https?://[^\s'\"<>)]+", text)) <= {"http://www.w3.org/2000/svg"}, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage", text), name
        assert not re.search(r"<style|<script(?! type=\"module\" src=\"/page/)|\sstyle=|\son[a-z]+=", text), name


def test_names_in_the_script_are_names_in_the_document() -> None:
    document = (FOLDER / "index.html").read_text()
    known = set(re.findall(r'id="([^"]+)"', document))
    scripts = "".join((FOLDER / name).read_text() for name in FILES if name.endswith(".js"))
    asked = set(re.findall(r"\bat\('([^']+)'\)", scripts))
    assert asked <= known
    assert set(re.findall(r'(?:for|aria-labelledby)="([^"]+)"', document)) <= known
    assert {name for names in re.findall(r'aria-describedby="([^"]+)"', document) for name in names.split()} <= known


def test_a_file_s_tag_follows_its_bytes() -> None:
    one, other = page(""), page("password token")
    assert one["main.js"] == other["main.js"]
    assert one["index.html"].etag != other["index.html"].etag
    assert b'content="password token"' in other["index.html"].content


@pytest.mark.parametrize(
    ("mode", "issued_here", "ways"),
    [
        ("Basic", False, ""), ("Basic", True, ""), ("None", False, ""), ("JWT", False, "token"),
        ("JWT", True, "password token"), ("Any", False, "browser token"), ("Any", True, "password token"),
    ],
)  # fmt: skip
def test_the_ways_in_are_those_that_work(mode: AuthMode, issued_here: bool, ways: str) -> None:
    token = TokenSettings(Path("/key"), 900) if issued_here else None
    assert sign_in_ways(AuthSettings(mode, None, None, token)) == ways


def test_the_limits_are_told_to_those_who_are_known(worker) -> None:
    limits = worker.api.get("/v1/models", auth=AUTH).json()["data"][0]["limits"]
    assert limits == {
        "max_pixels": 65536, "side_step_px": 16, "side_max_px": 8192, "side_default_px": 256, "max_steps": 1000,
        "steps_default": 8, "max_images": 4, "max_prompt_characters": 2000,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fetch_site", "origin", "refused"),
    [
        (None, None, False), ("same-origin", None, False), ("none", None, False),
        ("same-origin", "http://elsewhere", False), ("cross-site", None, True), ("same-site", None, True),
        ("cross-site", "http://a:1", True), ("nonsense", None, True), (None, "http://a:1", False),
        (None, "http://A:1", False), (None, "http://a:2", True), (None, "http://a", True), (None, "null", True),
        (None, "http://b:1", True), (None, "", True),
    ],
)  # fmt: skip
def test_which_requests_come_from_another_site(fetch_site: str | None, origin: str | None, refused: bool) -> None:
    assert cross_site(fetch_site, origin, "a:1") is refused


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example.org"}])
def test_another_site_s_form_makes_no_picture(worker, headers: dict[str, str]) -> None:
    """A browser adds the Basic credentials to such a form by itself."""
    made = worker.metric("zimage_images_total")
    form = {"prompt": (None, "x"), "image": ("a.png", b"x", "image/png")}
    edits = worker.api.post("/v1/images/edits", auth=AUTH, files=form, headers=headers)
    assert (edits.status_code, edits.json()["error"]["code"]) == (403, "cross_site")
    assert worker.generate(headers=headers).status_code == 403
    assert worker.metric("zimage_images_total") == made


def test_mode_any_shows_strangers_a_form_and_nothing_else(gated) -> None:
    answer = gated.get("/")
    assert 'name="sign-in" content="password token"' in answer.text
    assert gated.get("/page/main.js").status_code == 200
    assert gated.get("/page/nothing").status_code == 404
    assert gated.get("/v1/models").status_code == 401
    for word in ("alice", "revision-1", "65536", "images.example.org", "0.1.0"):
        assert word not in answer.text
    form = {"grant_type": "password", "username": "alice", "password": "canary-password-7f3a"}
    stolen = gated.worker.api.post("/token", data=form, headers={"Sec-Fetch-Site": "cross-site"})
    assert (stolen.status_code, "access_token" in stolen.text) == (403, False)


def test_the_wheel_and_the_image_carry_the_page(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert {f"zimage_worker/page/{name}" for name in FILES} <= names
    # The image takes the package's folder as it is; nothing keeps parts of it out.
    assert "COPY worker/zimage_worker /app/zimage_worker" in (ROOT / "worker/Dockerfile").read_text()
    assert not {"*.js", "*.css", "*.html", "*.svg", "**/page"} & set((ROOT / ".dockerignore").read_text().split())
