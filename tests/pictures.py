"""Makes the pictures of README from the samples: a terminal, the HTML report, a timeline, a figure of a notebook.

``python tests/pictures.py`` writes them all, or those that are named (``terminal``); it needs what
`.ci/install-browser` installs. The terminal is text, and `test_pictures` fails while it differs from what the command
prints now.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import evolve

import readme

ROOT = readme.ROOT
PICTURES = ROOT / "docs" / "pictures"
SAMPLES = ROOT / "traces" / "samples"
#: The report that most pictures are of, the step that the timeline shows, and the two ranks of the figure.
REPORT, STEP, RANKS = "h200-stages", 12, ("h100x2-gpu-rank0", "h100x2-gpu-rank1")
#: Colours of a picture of a screen, which is all that it needs.
_COLOURS = 250
#: How wide the HTML report is; the window of the timeline, what is shown of it before and after a step's end, in ns,
#: and how much there is above its tracks.
_PAGE, _WINDOW, _BEFORE, _AFTER, _RULER = 1180, (1500, 900), 640_000, 1_060_000, 57
#: A terminal without the title bar of a desktop, in fonts that are there: nothing is loaded from elsewhere.
_SVG = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
font: {char_height}px/{line_height}px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}}
.{unique_id}-title {{ font: bold 16px system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def terminal() -> str:
    """The first screen as SVG: the very bytes that the command prints, as a terminal understands them."""
    from rich.console import Console
    from rich.text import Text

    console = Console(
        record=True, width=readme.WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    call = f"dsprof {readme.SHOWN_FIRST}"
    console.print(Text(f"$ {call}", "bold"))
    for line in readme.coloured(readme.SHOWN_FIRST).splitlines():
        console.print(Text.from_ansi(line), no_wrap=True, crop=False)
    drawn = console.export_svg(title="dsprof", code_format=_SVG, unique_id="terminal")
    return re.sub(r"[ \t]+$", "", drawn, flags=re.MULTILINE)


@contextmanager
def laid_out() -> Iterator[Path]:
    """A folder with the samples, where exports and tables may be left."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (f"{REPORT}.sqlite.xz", f"{REPORT}.model.json", *(f"{name}.sqlite.xz" for name in RANKS)):
            shutil.copy(SAMPLES / name, folder)
        yield Path(folder)


def report(folder: Path) -> dict[str, bytes]:
    """A part of the HTML report, in light and in dark: one step, and the families of kernels."""
    import dsprof
    from browser import started

    page = folder / "report.html"
    page.write_text(dsprof.analyze(folder / f"{REPORT}.sqlite.xz").page(), encoding="utf-8")
    found = {}
    with started() as browser:
        for theme in ("light", "dark"):
            browser.show(page, width=_PAGE, dark=theme == "dark")
            top, bottom = browser.run(
                "return ['one-step', 'kernels'].map(id => document.getElementById(id).getBoundingClientRect().top)"
            )
            seen = {"x": 0, "y": top - 12, "width": _PAGE, "height": bottom - top - 20, "scale": 1.25}
            taken = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {
                "format": "png", "captureBeyondViewport": True, "clip": seen
            })  # fmt: skip
            found[f"report-{theme}.png"] = base64.b64decode(taken["data"])
    return found


def timeline(folder: Path) -> dict[str, bytes]:
    """The end of a step of a decode in the Perfetto UI: launches, and the kernels that the GPU is done with sooner."""
    import dsprof
    from dsprof.analysis.timelines import StepWanted, write_timeline
    from perfetto_reader import browser, serving, ui, wait

    analysis = dsprof.analyze(folder / f"{REPORT}.sqlite.xz")
    made = write_timeline([lambda: analysis], folder / "run.pftrace.gz", step=StepWanted(STEP))
    steps = analysis["step_trace"]
    end = int(steps.loc[(steps["request"] == 0) & (steps["step"] == STEP), "end_ns"].iloc[0])
    made = evolve(made, sight=(end - _BEFORE, end + _AFTER))
    with (
        browser() as driver,
        ui() as address,
        serving(made, address) as at,
    ):
        driver.set_window_size(*_WINDOW)
        driver.get(at.address)
        driver.switch_to.frame("ui")
        wait(driver, "return !!(window.app && window.app.trace && window.app.trace.timeline)")
        wait(driver, "return document.body.innerText.includes('stream')")
        _settle(driver)
        edges = "return [...document.querySelectorAll('.pf-track')].map(e => e.getBoundingClientRect())"
        tracks = driver.execute_script(f"{edges}.map(e => [e.top, e.bottom])")
        top, bottom = min(top for top, _ in tracks), max(bottom for _, bottom in tracks)
        return {"timeline.png": _cropped(driver.get_screenshot_as_png(), int(top) - _RULER, int(bottom) + 4)}


def _cropped(picture: bytes, top: int, bottom: int) -> bytes:
    """Some rows of a PNG."""
    from PIL import Image

    drawn = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.crop((0, top, image.width, bottom)).save(drawn, format="PNG")
    return drawn.getvalue()


def _settle(driver: Any) -> None:
    """Wait until two pictures in a row are the same: the UI draws by and by."""
    import time

    before = b""
    for _ in range(40):
        time.sleep(0.5)
        now = driver.get_screenshot_as_png()
        if now == before:
            return
        before = now
    raise AssertionError("the Perfetto UI does not come to rest")


def figure(folder: Path) -> dict[str, bytes]:
    """A figure as a notebook shows it: two ranks, of which one waits for the other."""
    import matplotlib

    matplotlib.use("agg")
    import dsprof
    from dsprof import plots

    many = dsprof.analyze_many([folder / f"{name}.sqlite.xz" for name in RANKS], on="loop")
    drawn = io.BytesIO()
    plots.idle_causes(many).savefig(drawn, dpi=150)
    return {"figure.png": drawn.getvalue()}


def small(picture: bytes) -> bytes:
    """A PNG of few colours."""
    from PIL import Image

    drawn = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        reduced = image.convert("RGB").quantize(_COLOURS, kmeans=2, dither=Image.Dither.NONE)
        reduced.save(drawn, format="PNG", optimize=True)
    return drawn.getvalue()


def main(*names: str) -> None:
    """Write all pictures, or those that are named: terminal, report, timeline, figure."""
    PICTURES.mkdir(exist_ok=True)
    chosen = names or ("terminal", "report", "timeline", "figure")
    if "terminal" in chosen:
        (PICTURES / "terminal.svg").write_text(terminal(), encoding="utf-8")
    with laid_out() as folder:
        for make in (report, timeline, figure):
            for name, picture in make(folder).items() if make.__name__ in chosen else ():
                (PICTURES / name).write_bytes(small(picture))
    for path in sorted(PICTURES.iterdir()):
        print(f"{path.stat().st_size:7d} {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
