"""The HTML report in Debian's chromium: it works, asks for nothing, and can be used by whoever."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import browser as browsers
import dsprof
from browser import PHONE, WIDE, Browser
from dsprof.analysis.analyze import Analysis
from dsprof.analysis.diff import Comparison
from dsprof.analysis.many import ManyAnalysis
from dsprof.page.sections import steps
from test_comparison_page import CHANGED, compared
from test_comparison_page import hostile as hostile_comparison
from test_many import made as made_rank
from test_page import BAD, hostile, many_steps

SAMPLES = Path(__file__).resolve().parents[1] / "traces" / "samples"
#: Requests with steps; an engine; ranks; modules and roofs; CUDA graphs.
SHOWN = ("h200-stages", "h100-serve", "h100x2-node", "h200-layers", "h200-graphs-graph")
#: Two reports, compared.
COMPARED = ("before-after", "before-after-hostile")
#: Tests of this file share a browser.
pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browsers.require()
    with browsers.started() as one:
        yield one


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The page of a sample, or of a made report, each made once."""
    folder, made = tmp_path_factory.mktemp("pages"), dict[str, Path]()

    def analysis(name: str) -> Analysis | ManyAnalysis | Comparison:
        if name == "ranks":
            several = [made_rank(folder / f"tp-rank{rank}.sqlite", late=1_000_000 * (rank == 2)) for rank in range(4)]
            return dsprof.analyze_many(several, on="loop", out=folder / "all.dsprof")
        if name == "before-after":
            return compared(folder / name, {}, CHANGED, gates=["default"])
        if name == "before-after-hostile":
            return hostile_comparison(folder / name)
        if name in ("hostile", "many"):
            return {"hostile": hostile, "many": many_steps}[name](folder)
        export = folder / f"{name}.sqlite"
        export.write_bytes(lzma.decompress((SAMPLES / f"{export.name}.xz").read_bytes()))
        if (model := SAMPLES / f"{name}.model.json").exists():
            (folder / model.name).write_bytes(model.read_bytes())
        return dsprof.analyze(export)

    def path(name: str) -> Path:
        if name not in made:
            made[name] = folder / f"{name}.html"
            made[name].write_text(analysis(name).page(), encoding="utf-8")
        return made[name]

    return path


def well(browser: Browser, page: Path) -> None:
    """Nothing was said, and nothing asked for but the page itself."""
    browser.heard()
    assert browser.said == []
    assert [url for url in browser.asked if not url.startswith("about:")] == [page.as_uri()]


@pytest.mark.parametrize("name", [*SHOWN, "hostile", "many", "ranks", *COMPARED])
def test_a_page_asks_for_nothing_and_fits(browser: Browser, page: Callable[[str], Path], name: str) -> None:
    for width in (WIDE, PHONE):
        browser.show(page(name), width)
        assert browser.run("return document.documentElement.dataset.ready") == "yes"
        assert browser.run("return document.documentElement.scrollWidth") <= width
    well(browser, page(name))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", [*SHOWN, "hostile", "ranks", *COMPARED])
def test_axe_finds_nothing(browser: Browser, page: Callable[[str], Path], name: str, dark: bool) -> None:
    browser.show(page(name), dark=dark)
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert browser.violations() == []


def test_axe_is_heard(browser: Browser, tmp_path: Path) -> None:
    """The check itself: an image without words, and grey on white."""
    path = tmp_path / "bad.html"
    bad = '<img src="data:,"><p style="color:#ccc">hardly seen</p>'
    path.write_text(f'<html lang="en"><title>bad</title><main><h1>x</h1>{bad}</main>')
    browser.show(path)
    assert {one.split(":")[0] for one in browser.violations()} == {"color-contrast", "image-alt"}


@pytest.mark.parametrize("name", ["hostile", "before-after-hostile"])
def test_hostile_names_run_nothing(browser: Browser, page: Callable[[str], Path], name: str) -> None:
    browser.show(page(name))
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    browser.run("document.querySelectorAll('[data-plot] svg').forEach(one => one.dispatchEvent(new KeyboardEvent("
                "'keydown', {key: 'n'})))")  # fmt: skip
    assert browser.run("return window.pwned") is None
    assert browser.run("return document.querySelectorAll('main img, main script, main iframe, main style').length") == 0
    well(browser, page(name))
    assert any(BAD[0] in text for text in browser.texts("td.name"))


def test_a_table_is_searched_and_sorted(browser: Browser, page: Callable[[str], Path]) -> None:
    browser.show(page("h200-stages"))
    browser.run("document.querySelector('#kernels-search').focus()")
    browser.keys(*"gemm DECODE")
    shown = browser.texts("#kernels tbody tr")
    assert shown and all("gemm" in text.lower() and "decode" in text for text in shown)
    assert browser.texts("#kernels-count")[0].startswith(f"{len(shown)} of ")
    for order in ("descending", "ascending"):
        browser.run("document.querySelector('#kernels th[data-column=avg_ns] button').click()")
        heads = browser.run("return [...document.querySelectorAll('#kernels th')].map(e => e.ariaSort)")
        at = heads.index(order)
        assert [one for one in heads if one != "none"] == [order]
        values = browser.run("return [...document.querySelectorAll('#kernels tbody tr')].filter(e => !e.hidden)"
                             ".map(e => +e.cells[arguments[0]].dataset.v)", at)  # fmt: skip
        assert values == sorted(values, reverse=order == "descending")


def test_operations_that_came_or_went_are_chosen(browser: Browser, page: Callable[[str], Path]) -> None:
    browser.show(page("before-after"))
    browser.run("const one = document.querySelector('#operations-match'); one.value = 'same';"
                "one.dispatchEvent(new Event('change'))")  # fmt: skip
    rows = browser.run("return [...document.querySelectorAll('#operations tbody tr')].map(e => "
                       "[e.hidden, e.cells[1].textContent])")  # fmt: skip
    assert rows and all(hidden == (match != "same") for hidden, match in rows)
    assert {match for _, match in rows} > {"same"}
    assert browser.texts("#operations-count") == [f"{sum(not hidden for hidden, _ in rows)} of {len(rows)}"]


def test_steps_are_told_by_pointer_and_keys(browser: Browser, page: Callable[[str], Path]) -> None:
    browser.show(page("h200-stages"))
    browser.run("document.querySelector('[data-plot=steps] svg').focus()")
    tips = []
    for key in ("\ue014", "\ue014", "\ue010"):  # right, right, end
        browser.keys(key)
        tips += browser.texts("[data-plot=steps] .tip")
    rows = data_of(page("h200-stages"))["steps"]["rows"]
    assert [re.findall(r"step (\d+)", tip)[0] for tip in tips] == [str(rows[at][2]) for at in (0, 1, -1)]
    browser.run("document.querySelector('[data-rows=steps]').closest('details').open = true")
    browser.driver.execute_async_script("setTimeout(arguments[0], 50)")
    table = browser.run("return [...document.querySelectorAll('[data-rows=steps] tbody tr')]"
                        ".map(row => [...row.cells].map(cell => cell.textContent))")  # fmt: skip
    from dsprof.show import units

    assert [row[4:] for row in table] == [[units.time(row[4]), units.time(row[5])] for row in rows]
    assert f"wall {table[0][4]}" in tips[0] and f"wall {table[-1][4]}" in tips[2]


def test_a_step_is_zoomed_and_walked_through(browser: Browser, page: Callable[[str], Path]) -> None:
    browser.show(page("h200-stages"))
    browser.run("document.querySelector('[data-plot=line] svg').focus()")
    whole = browser.texts("[data-plot=line] .tick")
    browser.keys("+", "+", "+")
    browser.driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 0))")
    near = browser.texts("[data-plot=line] .tick")
    assert near[0] != whole[0] and near[-1] != whole[-1]
    browser.keys("0", "n")
    browser.driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 0))")
    assert browser.texts("[data-plot=line] .tick") == whole
    data = data_of(page("h200-stages"))
    streams = [lane for lane in data["lines"][0]["lanes"] if lane[0].startswith("stream")]
    first = min(event for lane in streams for event in lane[2])
    assert browser.texts("[data-plot=line] .tip")[0].split("\n")[0] == data["names"][first[2]]


def test_many_steps_are_an_envelope(browser: Browser, page: Callable[[str], Path]) -> None:
    data = data_of(page("many"))["steps"]
    assert data["n"] > steps.MOST_DOTS and len(data["pieces"]) <= steps.PIECES
    browser.show(page("many"))
    browser.run("document.querySelector('[data-plot=steps] svg').focus()")
    browser.keys("\ue010")
    assert f"to {data['n']}" in browser.texts("[data-plot=steps] .tip")[0]


def test_it_is_read_without_a_script_and_printed(browser: Browser, page: Callable[[str], Path]) -> None:
    browser.show(page("h200-stages"), script=False)
    assert browser.texts("main h2") == browser.texts("nav a")
    assert browser.texts(".scripted") == []
    assert browser.texts("[data-plot=line] .events path") != []
    browser.show(page("h200-stages"))
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    import base64

    pages = len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(printed["data"])))
    assert 2 <= pages <= 8


def test_the_theme_is_turned(browser: Browser, page: Callable[[str], Path]) -> None:
    browser.show(page("h200-stages"))
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(colour)
    browser.run("document.querySelector('#theme').click()")
    assert browser.run(colour) != light


def data_of(page: Path) -> dict:
    """What the script is told."""
    return json.loads(page.read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0])
