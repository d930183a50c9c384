"""A picture of a dashboard: its own queries over the last minutes of a real Prometheus, drawn by a real browser.

Grafana itself is not run. Titles, order, width and units are the dashboard's; lines and colours are ours.
"""

from __future__ import annotations

import html
import io
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from browser import PACKAGES, chromium
from cluster.packages import ensure
from watching import Prometheus

WIDTH, HEIGHT = 400, 120
COLOURS = ("#2f6f9f", "#c2571a", "#3f8f4f", "#8a4fa3", "#a08a1a", "#b03a5b")
STYLE = """
body {margin: 0; padding: 16px; font: 13px sans-serif; background: #f4f4f1; color: #222}
main {display: grid; grid-template-columns: repeat(3, 424px); gap: 12px}
section {background: #fff; border: 1px solid #ddd; border-radius: 4px; padding: 10px 12px}
h1 {font-size: 18px; margin: 0 0 12px} h2 {font-size: 13px; margin: 0 0 6px}
p {margin: 2px 0; font-size: 11px; color: #555}
svg {display: block; background: #fafaf8} i {display: inline-block; width: 8px; height: 8px; margin-right: 5px}
"""
Line = tuple[str, list[tuple[float, float]]]


def picture(prometheus: Prometheus, board: dict[str, Any], window: str, seconds: int, target: Path) -> None:
    """Ask every panel's query for the last seconds, and save what a browser makes of it."""
    shown = "".join(section(panel, lines(prometheus, panel, window, seconds)) for panel in board["panels"])
    ensure(PACKAGES)
    head = f"<meta charset=utf-8><style>{STYLE}</style><h1>{html.escape(board['title'])}</h1>"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        page.write_text(f"{head}<main>{shown}</main>")
        driver = chromium(Path(folder, "profile"))
        try:
            driver.get(page.as_uri())
            # The window is higher than what it shows; what is left over is cut off.
            height = int(driver.execute_script("return document.querySelector('main').getBoundingClientRect().bottom"))
            driver.set_window_size(1340, height + 300)
            Image.open(io.BytesIO(driver.get_screenshot_as_png())).crop((0, 0, 1340, height + 16)).save(
                target, quality=80
            )
        finally:
            driver.quit()


def lines(prometheus: Prometheus, panel: dict[str, Any], window: str, seconds: int) -> list[Line]:
    """The series of one panel, by their legends."""
    (asked,) = panel["targets"]
    query = asked["expr"].replace("$__rate_interval", window).replace("$namespace", ".*")
    now = time.time()
    found = prometheus.get("query_range", query=query, start=now - seconds, end=now, step=1).get("result", [])
    return [(legend(asked["legendFormat"], one["metric"]), points(one["values"], now - seconds)) for one in found]


def legend(form: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda name: labels.get(name[1], ""), form)


def points(values: list[list[Any]], start: float) -> list[tuple[float, float]]:
    numbers = [(moment - start, float(value)) for moment, value in values]
    return [(moment, value) for moment, value in numbers if value == value]


def section(panel: dict[str, Any], found: list[Line]) -> str:
    """One panel: its title, its lines, what each is and its last value."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    found = [line for line in found if line[1]]
    top = max((value for _, numbers in found for _, value in numbers), default=1) or 1
    end = max((moment for _, numbers in found for moment, _ in numbers), default=1) or 1
    drawn = "".join(polyline(numbers, top, end, colour(place)) for place, (_, numbers) in enumerate(found))
    told = "".join(
        f"<p><i style='background:{colour(place)}'></i>{html.escape(name)}: {numbers[-1][1]:.3g}</p>"
        for place, (name, numbers) in enumerate(found[:4])
    )
    nothing = "" if found else f"<text x=10 y={HEIGHT // 2} font-size=12 fill='#999'>no data</text>"
    title = html.escape(f"{panel['title']}{'' if unit == 'short' else f' ({unit})'}")
    return f"<section><h2>{title}</h2><svg width={WIDTH} height={HEIGHT}>{drawn}{nothing}</svg>{told}</section>"


def colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def polyline(numbers: list[tuple[float, float]], top: float, end: float, stroke: str) -> str:
    room = HEIGHT - 12
    placed = " ".join(f"{WIDTH * moment / end:.1f},{HEIGHT - 6 - room * value / top:.1f}" for moment, value in numbers)
    return f"<polyline points='{placed}' fill=none stroke='{stroke}' stroke-width=1.5 />"
