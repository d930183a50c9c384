"""A real Chromium, headless, that tells all it asked for and complained of."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

PACKAGES = ("chromium", "chromium-driver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


def chromium(profile: Path) -> webdriver.Chrome:
    """With a fresh profile; the driver's path is given, so selenium downloads nothing."""
    options = Options()
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    downloads = {"download.default_directory": str(profile / "downloads"), "download.prompt_for_download": False}
    options.add_experimental_option("prefs", downloads)
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    driver.set_page_load_timeout(120)
    return driver


class Page:
    """The page in a tab: found as a person finds things, by what they are called."""

    def __init__(self, driver: webdriver.Chrome, port: int) -> None:
        self.driver, self.port = driver, port
        self.url = f"http://127.0.0.1:{port}/"
        # What the console may hold, where a test provokes it.
        self.expected = ""

    def open(self, user: str = "", password: str = "") -> Page:
        """With credentials as the browser's own dialog would leave them behind; then without any in the address."""
        if user:
            self.driver.get(f"http://{user}:{password}@127.0.0.1:{self.port}/healthz")
            self.driver.get(f"http://{user}:{password}@127.0.0.1:{self.port}/page/icon.svg")
        self.driver.get(self.url)
        return self

    def at(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, name: str) -> str:
        return self.at(name).text

    def shown(self, name: str) -> bool:
        return self.at(name).is_displayed()

    def value(self, name: str) -> str:
        return str(self.at(name).get_property("value"))

    def write(self, name: str, text: str) -> None:
        element = self.at(name)
        element.clear()
        element.send_keys(text)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def run(self, script: str, *arguments: Any) -> Any:
        """The body of an async function, in the page; errors come back as text."""
        wrapped = (
            "const done = arguments[arguments.length - 1], given = [...arguments].slice(0, -1);"
            f"(async (...args) => {{ {script} }})(...given).then(done, (error) => done('FAILED ' + error));"
        )
        return self.driver.execute_async_script(wrapped, *arguments)

    def announced(self) -> list[str]:
        """What the live region has said since it was watched (see `listen`)."""
        return list(self.js("return window.heard"))

    def listen(self) -> None:
        self.js(
            "window.heard = []; const says = document.getElementById('says');"
            "new MutationObserver(() => says.textContent && window.heard.push(says.textContent))"
            ".observe(says, { childList: true });"
        )

    def emulate(self, width: int, height: int, scheme: str = "light", *, mobile: bool = False) -> None:
        """A screen of so many CSS pixels, light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def complaints(self) -> list[str]:
        """The console's errors and warnings since the last call: exceptions, CSP, failed requests."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in {"SEVERE", "WARNING"}]

    def asked(self) -> list[str]:
        """Every address that was asked for since the last call."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return found


AXE = "axe-core@4.14.1"
AXE_SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="


def axe(folder: Path) -> str:
    """axe-core's script, from npm, by its hash."""
    answer = subprocess.run(
        ["npm", "pack", "--silent", AXE], cwd=folder, capture_output=True, text=True, check=True, timeout=240
    )
    packed = (folder / answer.stdout.strip().splitlines()[-1]).read_bytes()
    assert base64.b64encode(hashlib.sha512(packed).digest()).decode() == AXE_SHA512, "not the axe-core that we know"
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        found = tar.extractfile("package/axe.min.js")
        assert found
        return found.read().decode()
