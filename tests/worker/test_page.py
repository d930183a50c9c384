"""The page in a real Chromium, against the real process: found, heard and pressed as people do it."""

from __future__ import annotations

import base64
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import browser
from browser import Page
from cluster import packages
from cluster.keeper import ClusterFailed

USER, PASSWORD = "alice", "canary-password-7f3a"
AUTH = (USER, PASSWORD)
# Refused on purpose: Chromium writes each of them into its console.
REFUSED = "Failed to load resource"


def cannot_run(why: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    try:
        packages.ensure(browser.PACKAGES)
    except (ClusterFailed, FileNotFoundError) as error:
        cannot_run(f"no Chromium: {error}")
    driver = browser.chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture
def opened(chrome: Any) -> Iterator[Callable[..., Page]]:
    """A page that nobody has used; at the end it has asked nobody else, and the console is clean."""
    pages: list[Page] = []

    def make(worker: Any, user: str = "", password: str = "") -> Page:
        page = Page(chrome, worker.port)
        page.emulate(1280, 900)
        page.open(user, password)
        page.js("sessionStorage.clear()")
        page.driver.get(page.url)
        page.complaints(), page.asked()
        page.listen()
        pages.append(page)
        return page

    yield make
    for page in pages:
        complaints = [line for line in page.complaints() if not (page.expected and page.expected in line)]
        assert not complaints
        others = [
            url for url in page.asked() if not url.removeprefix("blob:").startswith((page.url, "chrome:", "data:"))
        ]
        assert not others


@pytest.fixture
def page(opened: Callable[..., Page], worker: Any, eventually: Any) -> Page:
    """The page of mode Basic, signed in by the browser, the service's limits told."""
    made = opened(worker, USER, PASSWORD)
    eventually(lambda: made.all("#size-choices input"))
    return made


def order(page: Page, prompt: str = "a red fox", **values: str) -> None:
    page.write("prompt", prompt)
    for name, value in values.items():
        page.write(name, value)
    page.at("generate").click()


def size(page: Page, width: int, height: int) -> None:
    page.all("#size-choices input")[-1].click()
    page.write("width", str(width))
    page.write("height", str(height))


def states(page: Page) -> None:
    """Note each state of the stage and each line below it from now on."""
    page.js(
        "const frame = document.getElementById('frame'), doing = document.getElementById('doing');"
        "window.states = []; window.lines = [];"
        "new MutationObserver(() => window.states.push(frame.dataset.state)).observe(frame, { attributes: true });"
        "new MutationObserver(() => window.lines.push(doing.textContent)).observe(doing, { childList: true });"
    )


def finished(page: Page, eventually: Any, pictures: int) -> None:
    eventually(lambda: len(page.all("#pictures li")) == pictures and page.shown("generate"))


class Order:
    """A long order of somebody else's: holds the GPU, or a place, until it is left."""

    def __init__(self, worker: Any) -> None:
        body = {"prompt": "x", "steps": 1000, "size": "256x256", "stream": True, "progress": True}
        self.stream = worker.api.stream("POST", "/v1/images/generations", json=body, auth=AUTH)

    def __enter__(self) -> Order:
        # Kept: an iterator that is thrown away closes the connection.
        self.lines = self.stream.__enter__().iter_lines()
        next(self.lines)
        return self

    def __exit__(self, *_error: object) -> None:
        self.stream.__exit__(None, None, None)


def test_a_picture_comes_with_previews_and_can_be_made_again(page, worker, eventually) -> None:
    states(page)
    order(page, "a red fox <b>& snow</b>", steps="12")
    finished(page, eventually, 1)
    assert [name for name, _ in itertools.groupby(page.js("return states"))] == ["waiting", "preview", "shown"]
    assert "Step 12 of 12" in page.js("return lines")
    assert page.text("about-prompt") == "a red fox <b>& snow</b>"
    assert page.at("picture").accessible_name == "Picture made from: a red fox <b>& snow</b>"
    seed = page.text("about-numbers").rpartition("seed ")[2]
    assert page.text("about-numbers") == f"256 × 256 · 12 steps · seed {seed}"
    eventually(lambda: f"The picture is ready. Seed {seed}." in page.announced())
    page.at("use-seed").click()
    assert page.value("seed") == seed
    order(page, "a red fox <b>& snow</b>")
    finished(page, eventually, 2)
    assert page.text("about-numbers").endswith(f"seed {seed}")
    # All 63 bits of the seed went back and forth: the file is the API's, byte for byte.
    body = {"prompt": "a red fox <b>& snow</b>", "size": "256x256", "steps": 12, "seed": int(seed)}
    wanted = base64.b64decode(worker.generate(body).json()["data"][0]["b64_json"])
    page.at("download").click()
    folder = Path(page.driver.capabilities["chrome"]["userDataDir"]) / "downloads"
    file = folder / f"z-image-{seed}-256x256.png"
    eventually(lambda: file.exists() and file.read_bytes() == wanted)


def test_several_pictures_a_reload_and_the_way_back_to_all_settings(page, eventually) -> None:
    size(page, 96, 64)
    order(page, "two boats", count="2", steps="4", seed="7")
    finished(page, eventually, 2)
    eventually(lambda: "Picture 2 of 2 is ready. Seed 8." in page.announced())
    names = [button.accessible_name for button in page.all("#pictures button")]
    assert names == ["Show: two boats, seed 8", "Show: two boats, seed 7"]
    page.write("prompt", "something else that must not be lost")
    page.driver.refresh()
    eventually(lambda: len(page.all("#pictures li")) == 2)
    eventually(lambda: page.value("prompt") == "something else that must not be lost")
    page.all("#pictures button")[1].click()
    assert [button.get_attribute("aria-pressed") for button in page.all("#pictures button")] == ["false", "true"]
    page.at("use-all").click()
    assert (page.value("prompt"), page.value("seed"), page.value("steps")) == ("two boats", "7", "4")
    assert (page.value("width"), page.value("height"), page.value("count")) == ("96", "64", "1")
    page.at("clear").click()
    assert page.js("return document.getElementById('frame').dataset.state") == "empty"
    page.driver.refresh()
    eventually(lambda: page.all("#size-choices input"))
    assert not page.all("#pictures li")


def test_what_a_closed_tab_leaves_on_the_disk_is_noise_and_is_swept(page, eventually) -> None:
    rows = """const request = indexedDB.open('zimage', 1);
        const database = await new Promise((ok) => { request.onsuccess = () => ok(request.result); });
        const all = database.transaction('pictures').objectStore('pictures').getAll();
        const found = await new Promise((ok) => { all.onsuccess = () => ok(all.result); });
        database.close();
        return found.map((row) => new TextDecoder('latin1').decode(row.sealed));"""
    size(page, 64, 64)
    order(page, "canary-of-the-disk", steps="1")
    finished(page, eventually, 1)
    (kept,) = eventually(lambda: page.run(rows))
    assert "canary" not in kept
    assert "PNG" not in kept
    page.js("sessionStorage.clear()")  # As a closed tab.
    page.driver.refresh()
    eventually(lambda: page.all("#size-choices input"))
    eventually(lambda: page.run(rows) == [])


def test_cancel_frees_the_gpu_and_keeps_the_prompt(page, worker, eventually) -> None:
    made = worker.metric("zimage_images_total")
    order(page, "a long way", steps="1000")
    eventually(lambda: page.text("doing").startswith("Step ") and page.driver.title.endswith(" % · Z-Image"))
    assert page.at("cancel") == page.driver.switch_to.active_element
    page.at("cancel").click()
    eventually(lambda: worker.metric("zimage_requests_running") == 0)
    eventually(lambda: "Cancelled." in page.announced())
    assert (page.value("prompt"), page.text("notice"), page.driver.title) == ("a long way", "", "Z-Image")
    assert page.at("generate") == page.driver.switch_to.active_element
    assert worker.metric("zimage_images_total") == made


def test_a_place_in_the_queue_and_a_full_queue(page, worker, eventually) -> None:
    page.expected = REFUSED
    with Order(worker):
        order(page, "patience", steps="4")
        eventually(lambda: page.text("doing") == "Waiting: you are next")
        eventually(lambda: "Waiting: you are next" in page.announced())
    finished(page, eventually, 1)
    with Order(worker), Order(worker):
        order(page, "more patience")
        eventually(lambda: "All places are taken at the moment." in page.text("notice"))
        assert page.at("notice").aria_role == "alert"
        assert page.text("generate").startswith("Try again in ")
        assert page.at("generate").get_attribute("aria-disabled") == "true"
        # Pressing it has no effect until then, and the picture from before is still there.
        page.at("generate").click()
        assert (page.value("prompt"), page.text("about-prompt")) == ("more patience", "patience")


def test_a_wrong_field_is_named_and_gone_to(page) -> None:
    page.at("generate").click()
    assert page.text("prompt-error") == "Describe the picture first."
    assert page.at("prompt") == page.driver.switch_to.active_element
    assert page.at("prompt").get_attribute("aria-invalid") == "true"
    size(page, 250, 256)
    for name, value in {"steps": "0", "count": "99", "seed": "9223372036854775808"}.items():
        page.write(name, value)
    page.write("prompt", "x")
    page.at("generate").click()
    assert page.text("prompt-error") == ""
    assert page.text("size-error") == "Width and height must be multiples of 16 from 16 to 8192."
    assert page.text("steps-error") == "A whole number from 1 to 1000."
    assert page.text("n-error") == "A whole number from 1 to 4."
    assert page.text("seed-error") == "A whole number from 0 to 9223372036854775807, or nothing."
    size(page, 512, 512)
    page.at("generate").click()
    assert page.text("size-error") == "That is too many pixels; with a width of 512 the height can be 128 at most."
    page.js("document.getElementById('prompt').value = 'ü'.repeat(2001)")
    page.at("generate").click()
    assert page.text("prompt-error") == "The prompt is 1 characters too long."


def test_a_lost_connection_is_said_and_nothing_is_lost(page, eventually) -> None:
    page.expected = REFUSED
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **network})
    try:
        eventually(lambda: page.text("notice").startswith("There is no network"))
        order(page, "nobody hears me")
        eventually(lambda: page.text("notice").startswith("The connection was lost."))
        assert page.value("prompt") == "nobody hears me"
    finally:
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **network})
    eventually(lambda: page.text("notice") == "")
    order(page, "now they do", steps="1")
    finished(page, eventually, 1)


def test_everything_by_keyboard(page, eventually) -> None:
    def press(*keys: str) -> Any:
        ActionChains(page.driver).send_keys(*keys).perform()
        return page.driver.switch_to.active_element

    def until(name: str) -> Any:
        for _ in range(25):
            if press(Keys.TAB).get_attribute("id") == name:
                return page.driver.switch_to.active_element
        raise AssertionError(f"{name} is not reached by the Tab key")

    first = press(Keys.TAB)
    assert first.text == "Skip to the prompt"
    press(Keys.ENTER)
    press("by keys alone")
    assert page.value("prompt") == "by keys alone"
    press(Keys.TAB)
    press(Keys.ARROW_RIGHT)
    assert page.text("size-hint") == "304 × 208 pixels"
    until("steps")
    ActionChains(page.driver).key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL).send_keys("1000").perform()
    until("generate")
    press(Keys.ENTER)
    eventually(lambda: page.text("doing").startswith("Step "))
    press(Keys.ENTER)  # The focus is on Cancel.
    eventually(lambda: page.shown("generate"))
    page.write("steps", "2")
    page.at("prompt").send_keys(Keys.CONTROL, Keys.ENTER)
    finished(page, eventually, 1)
    page.js("document.activeElement.blur(); scrollTo(0, 0)")
    for name in ("download", "use-seed", "use-all", "prompt", "seed", "generate", "clear"):
        until(name)
        ring = page.js("return getComputedStyle(document.activeElement).outlineStyle")
        assert ring == "solid", f"{name} does not show that it has the focus"
    assert press(Keys.TAB).accessible_name.startswith("Show: by keys alone, seed ")


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    try:
        return browser.axe(tmp_path_factory.mktemp("axe"))
    except (FileNotFoundError, OSError) as error:
        cannot_run(f"axe-core comes from npm: {error}")
        raise


def violations(page: Page, axe: str) -> list[str]:
    """All of axe's rules but the experimental ones."""
    page.js(axe)
    # A change of colours takes a moment; half-way through it nothing is as it was designed.
    page.run("await Promise.allSettled(document.getAnimations().map((each) => each.finished)); return ''")
    found = page.run("return JSON.stringify((await axe.run()).violations)")
    assert not found.startswith("FAILED"), found
    return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in json.loads(found)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_sticks_out(page, axe, eventually, scheme: str) -> None:
    fits = (
        "return [document.documentElement.scrollWidth <= innerWidth, innerWidth,"
        " getComputedStyle(document.body).backgroundColor]"
    )
    page.emulate(1280, 900, scheme)
    assert violations(page, axe) == []
    page.at("generate").click()
    size(page, 256, 128)
    order(page, "W" * 300, steps="2", count="2")
    finished(page, eventually, 2)
    page.write("seed", "x")
    page.at("generate").click()
    assert violations(page, axe) == []
    page.emulate(360, 740, scheme, mobile=True)
    assert violations(page, axe) == []
    colour = {"light": "rgb(245, 244, 240)", "dark": "rgb(19, 19, 18)"}[scheme]
    assert page.js(fits) == [True, 360, colour]


def test_signing_in_with_a_name_and_a_password_for_a_token(opened, gated, axe, eventually) -> None:
    page = opened(gated.worker)
    page.expected = REFUSED
    eventually(lambda: page.shown("user"))
    assert not page.all("#size-choices input")
    assert violations(page, axe) == []
    page.emulate(360, 740, "dark", mobile=True)
    assert page.js("return document.getElementById('sign-in').scrollWidth") <= 360
    assert violations(page, axe) == []
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    assert page.shown("user")
    page.write("user", USER)
    page.write("password", "wrong" + Keys.ENTER)
    eventually(lambda: page.text("sign-in-notice") == "The name or the password is wrong.")
    page.write("password", PASSWORD + Keys.ENTER)
    eventually(lambda: page.all("#size-choices input") and page.shown("sign-out"))
    assert not page.shown("sign-in")
    assert page.value("password") == ""
    order(page, "signed in", steps="2")
    finished(page, eventually, 1)
    page.driver.refresh()
    eventually(lambda: page.shown("sign-out") and len(page.all("#pictures li")) == 1)
    # A token that runs out in the middle of the work.
    page.js("sessionStorage.setItem('zimage.token', 'not.a.token')")
    page.driver.refresh()
    eventually(lambda: "You are not signed in any more." in page.text("sign-in-why"))
    token = gated.token().json()["access_token"]
    page.at("token-way").find_element(By.TAG_NAME, "summary").click()
    page.write("token", "wrong")
    page.at("token-submit").click()
    eventually(lambda: page.text("sign-in-notice").startswith("This token is not accepted"))
    page.write("token", token)
    page.at("token-submit").click()
    eventually(lambda: page.shown("sign-out"))
    assert (page.value("prompt"), len(page.all("#pictures li"))) == ("signed in", 1)
    page.at("sign-out").click()
    eventually(lambda: page.text("sign-in-why") == "You are signed out.")
    assert (page.value("prompt"), len(page.all("#pictures li"))) == ("", 0)
    assert page.js("return sessionStorage.getItem('zimage.token')") is None


def test_another_site_s_form_is_refused_though_the_browser_adds_the_password(page, worker, eventually) -> None:
    page.expected = REFUSED
    made = worker.metric("zimage_requests_total")

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            form = f'<form method="post" enctype="multipart/form-data" action="{page.url}v1/images/edits">'
            self.wfile.write(f'{form}<input name="prompt" value="x"><button>Win</button></form>'.encode())

        def log_message(self, *_: object) -> None:
            pass

    # A thread each: the browser opens a second connection and says nothing on it for a minute.
    with ThreadingHTTPServer(("127.0.0.1", 0), Evil) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.driver.get(f"http://127.0.0.1:{server.server_port}/")
        page.driver.find_element(By.TAG_NAME, "button").click()
        eventually(lambda: "cross_site" in page.driver.page_source)
        server.shutdown()
    assert worker.metric("zimage_requests_total") == made
    page.asked(), page.complaints()


COUNTED = """
const { Notice } = await import('/page/notice.js');
const { Refused } = await import('/page/errors.js');
new Notice('notice', 'generate').show(new Refused({ status: 429, code: 'queue_full', retrySeconds: 2 }));
const { textContent, ariaDisabled } = document.getElementById('generate');
return [textContent, ariaDisabled, document.getElementById('notice').textContent];
"""


def test_the_wait_is_counted_down_on_the_button(page, eventually) -> None:
    button, disabled, notice = page.run(COUNTED)
    assert (button, disabled) == ("Try again in 2 s", "true")
    assert notice == "All places are taken at the moment. Your prompt is kept. Try again in 2 s."
    eventually(lambda: page.text("generate") == "Generate")
    assert (page.at("generate").get_attribute("aria-disabled"), page.text("notice")) == (None, "")
    eventually(lambda: "You can try again now." in page.announced())


WORDS = """
const { explained, Lost, Refused } = await import('/page/errors.js');
const said = (facts) => explained(new Refused(facts));
return [
  explained(new Lost()), explained(new TypeError('x')), said({ status: 401 }),
  said({ status: 400, param: 'size', message: 'size: each side must be a multiple of 16' }),
  said({ status: 400, param: 'model', message: 'Unknown parameter: model' }),
  said({ status: 500, code: 'generation_failed', requestId: 'abc' }), said({ status: 502 }),
  said({ status: 429, code: 'rate_limit_exceeded', retrySeconds: 7 }),
  said({ status: 503, code: 'not_ready', retrySeconds: 10, requestId: 'abc' }),
].map(({ text, field, retrySeconds, signIn }) => [text, field ?? null, retrySeconds ?? 0, signIn ?? false]);
"""


def test_errors_in_plain_words(page) -> None:
    lost, broken, unknown, size_wrong, other, failed, proxy, often, loading = page.run(WORDS)
    assert lost[0].startswith("The connection was lost.")
    assert broken[0].startswith("Something went wrong in this page.")
    assert (unknown[0].startswith("You are not signed in any more."), unknown[3]) == (True, True)
    assert size_wrong[:2] == ["Each side must be a multiple of 16.", "size"]
    assert other[:2] == ["Unknown parameter: model.", None]
    assert failed[0].endswith("report it with this number: abc")
    assert proxy[0] == "The service failed. Your prompt is kept; try again in a moment."
    assert often[2] == 7
    assert (loading[0], loading[2]) == ("The model is still being loaded. Your prompt is kept.", 10)


EVENTS = """
const { Parser, events } = await import('/page/sse.js');
const text = args[0], read = [];
for (const width of [1, 2, 3, 7, 1000]) {
  const parser = new Parser(), found = [];
  for (let n = 0; n < text.length; n += width) found.push(...parser.push(text.slice(n, n + width)));
  read.push(found.map(({ name, data }) => `${name}=${data}`));
}
const silent = new ReadableStream({});
const all = async () => { for await (const _ of events(silent, 50)); };
const ended = await all().catch((error) => error.constructor.name);
return [read, ended];
"""


def test_events_are_read_however_they_are_cut(page) -> None:
    text = ': hello\n\nevent: a\ndata: {"x":1}\n\ndata:two\ndata: lines\nid: 5\n\n: keep-alive\n\n'
    text += "event: b\r\ndata: ü\r\n\r\nevent: cut\ndata: of"
    read, ended = page.run(EVENTS, text)
    assert read == [['a={"x":1}', "message=two\nlines", "b=ü"]] * 5
    assert ended == "Lost"


SIZES = """
const { presets, wrongSize } = await import('/page/sizes.js');
const limits = { side_default_px: args[0], side_step_px: 16, side_max_px: 8192, max_pixels: args[1] };
return [presets(limits).map(({ width, height }) => `${width}x${height}`),
  presets(limits).map(({ width, height }) => wrongSize(width, height, limits)).filter(Boolean)];
"""


@pytest.mark.parametrize(
    ("side", "pixels", "wanted"),
    [
        (1024, 1024 * 1024, ["1024x1024", "1248x832", "1360x768", "832x1248", "768x1360"]),
        (256, 65536, ["256x256", "304x208", "336x192", "208x304", "192x336"]),
        (16, 256, ["16x16"] * 5),
    ],
)
def test_the_sizes_on_offer_are_served(page, side: int, pixels: int, wanted: list[str]) -> None:
    assert page.run(SIZES, side, pixels) == [wanted, []]
