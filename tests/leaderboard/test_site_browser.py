"""The site in a real browser: sorting, choices, viewer, hostile text, no requests, no errors in the console."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import made_results as made
import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from embench.core.paths import prepared_path
from embench.data import store
from embench.data.task import Item
from embench.scoring.results import save
from embench.scoring.schema import TrialResult
from leaderboard import cli
from leaderboard.site import charts

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not CHROMIUM or not DRIVER, reason="needs Chromium and its driver: apt-get install chromium chromium-driver"
)

MITO = made.task("made-mito")
SYNAPSE = made.task("made-synapse")
TOY = made.task("made-toy", synthetic=True)

FAINT, UNNAMED = (
    (Path(__file__).parents[1] / "files" / name).read_text() for name in ("faint_text.js", "unnamed_parts.js")
)

HOSTILE = [
    "<script>document.title='ran'</script>",
    "\"><script>document.title='ran'</script>",
    "'><img src=x onerror=\"document.title='ran'\">",
    "</script><script>document.title='ran'</script>",
    "</title><script>document.title='ran'</script>",
    "</textarea><svg onload=document.title='ran'>",
    "--><script>document.title='ran'</script>",
    "]]><script>document.title='ran'</script>",
    "<svg/onload=document.title='ran'>",
    "<iframe srcdoc=\"<script>parent.document.title='ran'</script>\">",
    "<a href=\"javascript:document.title='ran'\">x</a>",
    "javascript:document.title='ran'",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "<base href=https://example.org/>",
    "<link rel=stylesheet href=https://example.org/x.css>",
    "<style>body{display:none}</style>",
    "{{ 7 * 7 }} {% raw %}",
    "${7*7} #{7*7} <%= 7*7 %>",
    "&lt;script&gt; &amp; &#x3C;script&#x3E;",
    "\u2028\u2029</script>",
    "\u202etxt.exe\u202c",
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)",
    "a" * 3000,
    "' onmouseover=document.title='ran' x='",
]
"""Repeated with a number each until there are a hundred, so that every one can be looked for by itself."""


SHIFTS = """
const done = arguments[0];
new PerformanceObserver((list) => done(list.getEntries().reduce((sum, each) => sum + each.value, 0)))
  .observe({ type: "layout-shift", buffered: true });
setTimeout(() => done(0), 150);
"""
"""How far parts of the page moved after they were first shown: 0 where none did."""

VIOLATIONS = """
const done = arguments[0];
axe.run(document, { resultTypes: ["violations"] }).then((found) => done(found.violations.flatMap(
  (rule) => rule.nodes.map((node) => `${rule.id}: ${node.html.slice(0, 120)}: ${node.failureSummary}`))));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start a browser of our own, logging its console and its requests."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1200,900",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.get("about:blank")
    driver.get_log("performance")
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a small site with every kind of row, and sections with their data."""
    folder = tmp_path_factory.mktemp("built")
    labels = np.zeros((3, 40, 48), np.uint8)
    labels[:, 8:24, 10:30] = 1
    data_hash = store.write(
        prepared_path(MITO.name, folder / "data"),
        MITO,
        [Item(s, f"stack-{s}", labels, labels) for s in ("train", "test")],
    )
    names = tuple(f"seed-0.sections/stack-test-z{z}.png" for z in range(3))
    results = []
    for model, quality in {"retina": 0.7, "transunet": 0.6, "unet-resnet50": 0.0}.items():
        for on in (MITO, SYNAPSE, TOY):
            results += [
                made.result(
                    model,
                    on,
                    seed,
                    0.7 if model == "transunet" and on is TOY else quality,
                    noise=0.01 if quality else 0,
                    tuned=None if quality else 0.4,
                    precision=None if quality else 0.95,
                    data_hash=data_hash if on is MITO else None,
                    texts={"sections": names} if (on, seed) == (MITO, 0) else None,
                )
                for seed in range(6)
            ]
    results += [made.result("diverges", SYNAPSE, 0, status="diverged")]
    for on, used in ((MITO, data_hash), (SYNAPSE, None)):
        results += [_label_maps(made.result("labels-only", on, k, 0.1, data_hash=used)) for k in range(6)]
    made.write(results, folder / "results")
    for path in (folder / "results" / MITO.name).rglob("seed-0.json"):
        (path.parent / "seed-0.sections").mkdir()
        for z, name in enumerate(names):
            Image.fromarray(np.roll(labels[0], z, axis=1)).save(path.parent / name)
    return cli.build([folder / "results"], folder / "site", folder / "data").parent


def _label_maps(result: TrialResult) -> TrialResult:
    """Return a result as one of label maps has it: without what needs class scores."""
    snapshots = [
        each.model_copy(
            update={
                "diagnostics": None,
                "images": tuple(image.model_copy(update={"tuned": None}) for image in each.images),
            }
        )
        for each in result.snapshots
    ]
    return result.model_copy(update={"snapshots": tuple(snapshots)})


def visit(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    assert browser.execute_script("return document.readyState") == "complete"


def names(browser: Any, board: str) -> list[str]:
    rows = browser.find_elements("css selector", f"#{board} tbody:first-of-type tr[data-row]")
    return [row.get_attribute("data-row") for row in rows]


def choose(browser: Any, selector: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("css selector", selector)).select_by_visible_text(value)


def test_no_page_logs_an_error_or_asks_the_network_for_anything(browser: Any, built: Path) -> None:
    browser.get_log("browser")
    browser.get_log("performance")
    pages = sorted(built.rglob("*.html"))
    for page in pages:
        visit(browser, page)
    assert len(pages) > 10
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    failed = [e["params"] for e in events if e["method"] == "Network.loadingFailed"]
    assert len(asked) > len(pages)
    assert all(url.startswith(built.as_uri()) for url in asked)
    assert failed == []


def test_tables_sort_by_any_column_and_back(browser: Any, built: Path) -> None:
    visit(browser, built / "index.html")
    assert names(browser, "published") == ["retina", "transunet", "labels-only", "unet-resnet50"]
    headers = browser.find_elements("css selector", "#published thead:not(.diagram thead) th")
    assert [header.get_attribute("aria-sort") for header in headers] == ["none"] * len(headers)
    mean = headers[2].find_element("css selector", "button")
    mean.click()
    assert headers[2].get_attribute("aria-sort") == "descending"
    assert names(browser, "published") == ["retina", "transunet", "labels-only", "unet-resnet50"]
    mean.click()
    assert headers[2].get_attribute("aria-sort") == "ascending"
    assert names(browser, "published") == ["unet-resnet50", "labels-only", "transunet", "retina"]
    headers[1].find_element("css selector", "button").send_keys("\ue007")
    assert headers[2].get_attribute("aria-sort") == "none"
    assert names(browser, "published") == ["labels-only", "retina", "transunet", "unet-resnet50"]


def test_marks_follow_the_reference_that_the_reader_picks(browser: Any, built: Path) -> None:
    visit(browser, built / "index.html")

    def mark(row: str) -> str:
        return browser.find_element("css selector", f'#published tr[data-row="{row}"] .mark').get_attribute("title")

    assert (mark("retina"), mark("unet-resnet50")) == ("better, p < 0.05", "")
    choose(browser, "#reference-published", "retina")
    assert (mark("retina"), mark("transunet"), mark("unet-resnet50")) == ("", "worse, p < 0.01", "worse, p < 0.05")
    assert mark("diverges") == "n too small to tell"


def test_ranking_by_average_precision_changes_order_scores_and_marks_and_back(browser: Any, built: Path) -> None:
    visit(browser, built / "index.html")
    cell = browser.find_element("css selector", '#published tr[data-row="unet-resnet50"] td.cell')
    assert "0.000" in cell.text
    assert "tuned 0.400" in cell.text
    choose(browser, "#measure-published", "average precision")
    assert names(browser, "published") == ["unet-resnet50", "retina", "transunet"]
    assert "0.950" in cell.text
    rank = browser.find_element("css selector", '#published tr[data-row="unet-resnet50"] td.rank')
    assert rank.text.startswith("1 ")
    mark = browser.find_element("css selector", '#published tr[data-row="retina"] .mark')
    assert mark.get_attribute("title") == "worse, p < 0.01"
    unranked = browser.find_element("css selector", "#published tbody.unranked")
    assert "labels-only" in unranked.text
    assert "no average precision" in unranked.text
    choose(browser, "#measure-published", "IoU under the protocol")
    assert names(browser, "published") == ["retina", "transunet", "labels-only", "unet-resnet50"]
    assert "0.000" in cell.text


def test_the_address_keeps_what_the_reader_chose(browser: Any, built: Path) -> None:
    visit(browser, built / "index.html")
    choose(browser, "#measure-published", "average precision")
    choose(browser, "#reference-published", "retina")
    address = browser.current_url
    assert "measure-published=average_precision" in address
    browser.get("about:blank")
    browser.get(address)
    assert names(browser, "published") == ["unet-resnet50", "retina", "transunet"]
    row = browser.find_element("css selector", '#published tr[data-row="retina"]')
    assert "is-reference" in row.get_attribute("class")


def test_rows_that_are_not_distinguished_share_a_letter(browser: Any, built: Path) -> None:
    visit(browser, built / "index.html")
    letters = [each.text for each in browser.find_elements("css selector", "#synthetic .group") if each.text]
    assert letters == ["a", "a", "b"]


def test_a_row_has_one_colour_on_all_pages_and_another_than_other_rows(browser: Any, built: Path) -> None:
    found: dict[str, set[str]] = {}
    pages = [built / "index.html", *(built / "task").glob("*.html")]
    for page in pages:
        visit(browser, page)
        for row, colour in browser.execute_script(
            "return [...document.querySelectorAll('svg [data-row], .interval')].map("
            "(part) => [part.closest('[data-row]').dataset.row, getComputedStyle(part).color]);"
        ):
            found.setdefault(row, set()).add(colour)
    assert len(pages) == 4
    assert found.keys() == {"retina", "transunet", "unet-resnet50", "labels-only", "diverges"} - {"diverges"}
    assert all(len(colours) == 1 for colours in found.values())
    assert len(set.union(*found.values())) == len(found)


def test_the_palette_finds_a_row_of_any_name(browser: Any, tmp_path: Path) -> None:
    rows = ["unet+retina@crop=96,batch=8", "a.b#weights=12ab", *(text for text in HOSTILE if len(text) < 100)]
    (tmp_path / "palette.css").write_text("".join(charts.palette([row]) for row in rows))
    parts = "".join(f'<p data-row="{escape(row)}"></p>' for row in rows)
    (tmp_path / "page.html").write_text(f'<meta charset="utf-8"><link rel="stylesheet" href="palette.css">{parts}')
    visit(browser, tmp_path / "page.html")
    found = browser.execute_script(
        "return [...document.querySelectorAll('p')].map((part) => getComputedStyle(part).getPropertyValue('--band'));"
    )
    assert found == [".14"] * len(rows)


def test_filters_hide_rows_and_say_how_many_are_left(browser: Any, built: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    visit(browser, built / "index.html")
    rows = browser.find_elements("css selector", "#published tr[data-row]")

    def shown() -> list[str]:
        return [row.get_attribute("data-row") for row in rows if row.is_displayed()]

    browser.find_element("css selector", ".filters summary").click()
    choose(browser, "#filter-family", "hybrid")
    assert shown() == ["retina", "transunet"]
    assert "rows shown" in browser.find_element("css selector", ".filtered").text
    browser.find_element("css selector", "#filter-parameters").send_keys("1")
    assert shown() == []
    browser.find_element("css selector", ".filters button[type=reset]").click()
    WebDriverWait(browser, 5).until(lambda _: len(shown()) == len(rows))


def test_the_viewer_shows_any_section_of_any_model(browser: Any, built: Path) -> None:
    (page,) = (built / "task").glob("made-mito-*.html")
    visit(browser, page)
    where = browser.find_element("css selector", ".where")
    assert "section 0: retina, seed 0, IoU 1.000" in where.text
    browser.find_element("css selector", "[data-jump='0']").click()
    assert "section 2" in where.text
    choose(browser, "#viewer-row", "transunet")
    assert "transunet" in where.text
    overlay = browser.find_element("css selector", "[data-kind=error] .over")
    assert "/transunet/" in overlay.get_attribute("src")
    assert overlay.is_displayed()
    decoded = """return Promise.all([...document.querySelectorAll('.panels img')].filter((image) => !image.hidden)
        .map((image) => image.decode().then(() => image.naturalWidth)))"""
    assert set(browser.execute_script(decoded)) == {48}
    browser.find_element("css selector", "#viewer-overlay").click()
    assert not overlay.is_displayed()


def test_the_sections_of_a_stack_are_gone_through_by_slider_buttons_and_keys(browser: Any, built: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    visit(browser, next((built / "task").glob("made-mito-*.html")))
    where = browser.find_element("css selector", ".where")
    slider = browser.find_element("css selector", "#viewer-section")
    panels = browser.find_element("css selector", ".panels")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert "section 1" in where.text
    panels.send_keys(Keys.ARROW_RIGHT)
    assert "section 2" in where.text
    panels.send_keys(Keys.ARROW_RIGHT)
    assert "section 2" in where.text
    panels.send_keys(Keys.HOME)
    assert "section 0" in where.text
    browser.find_element("css selector", "[data-step='1']").click()
    assert "section 1" in where.text
    assert slider.get_attribute("aria-valuetext") == "stack-test, section 1"


def test_any_two_models_can_be_compared(browser: Any, built: Path) -> None:
    visit(browser, built / "compare/retina.html")
    choose(browser, "#pair-second", "transunet")
    said = browser.find_element("css selector", "#pair").text
    assert "retina is better than transunet on 2 of 3 tasks, worse on 0, not distinguished on 1" in said
    rows = browser.find_elements("css selector", "#pair-table tbody tr")
    assert len(rows) == 3
    assert "0.0022" in rows[0].text
    choose(browser, "#pair-second", "diverges")
    assert "with too few seeds on 1" in browser.find_element("css selector", "#pair").text
    choose(browser, "#pair-first", "unet-resnet50")
    assert browser.current_url.endswith("/compare/unet-resnet50.html#diverges")


def test_the_script_says_of_a_pair_what_the_page_says_without_it(browser: Any, built: Path) -> None:
    spoken = "return document.getElementById('pair').textContent;"
    again = "document.getElementById('pair-second').dispatchEvent(new Event('change'));"
    for page in sorted((built / "compare").glob("*.html")):
        visit(browser, page)
        written = browser.execute_script(spoken)
        assert browser.execute_script("document.getElementById('pair').textContent = '';" + again + spoken) == written


def test_the_figures_of_all_pairs_of_a_model_can_be_saved(browser: Any, built: Path, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    visit(browser, built / "compare/retina.html")
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    for kind in ("csv", "json"):
        browser.find_element("css selector", f"[data-download={kind}]").click()
    paths = [tmp_path / "compare-retina.csv", tmp_path / "compare-retina.json"]
    WebDriverWait(browser, 20).until(lambda _: all(path.is_file() and path.stat().st_size for path in paths))
    lines = list(csv.DictReader(paths[0].open(newline="")))
    same = json.loads(paths[1].read_text())
    assert len(lines) == len(same) == 9
    assert {line["other"] for line in lines} == {"transunet", "unet-resnet50", "labels-only", "diverges"}
    for line, other in zip(lines, same, strict=True):
        assert line.keys() == other.keys()
        assert line["p"] == ("" if other["p"] is None else str(other["p"])) or float(line["p"]) == other["p"]
        assert line["p_images"] == ("" if other["p_images"] is None else str(other["p_images"]))


KINDS = ("index.html", "task/made-mito-*.html", "model/retina.html", "compare/retina.html", "about.html")
"""One page of each kind."""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1200])
def test_pages_are_accessible_and_never_scroll_sideways_or_jump(
    browser: Any, built: Path, dark: bool, width: int
) -> None:
    scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    axe = (resources.files("axe_core_python") / "axe.min.js").read_text()
    try:
        for kind in KINDS:
            visit(browser, next(built.glob(kind)))
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            assert browser.execute_async_script(SHIFTS) == 0, kind
            assert browser.execute_script(FAINT) == []
            for closed in browser.find_elements("css selector", "details:not([open])"):
                browser.execute_script("arguments[0].open = true", closed)
            browser.execute_script(axe)
            assert browser.execute_async_script(VIOLATIONS) == [], kind
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_table_wider_than_the_page_shows_on_which_side_there_is_more(browser: Any, built: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        visit(browser, built / "compare/retina.html")
        region = browser.find_element("css selector", "#pair-region")
        for left, marked in ((0, "scroll more-right"), (60, "scroll more-left more-right"), (9999, "scroll more-left")):
            browser.execute_script("arguments[0].scrollLeft = arguments[1]", region, left)
            WebDriverWait(browser, 5).until(
                lambda _, marked=marked: set(region.get_attribute("class").split()) == set(marked.split())
            )
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_controls_have_names_tables_captions_and_pictures_alternative_text(browser: Any, built: Path) -> None:
    for page in sorted(built.rglob("*.html")):
        visit(browser, page)
        assert browser.execute_script(UNNAMED) == []


def test_a_board_can_be_used_by_keyboard_alone(browser: Any, built: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    visit(browser, built / "index.html")
    browser.find_element("css selector", "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the content"
    reached = set()
    for _ in range(60):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(browser.switch_to.active_element.get_attribute("outerHTML").split(">")[0])
    for part in ('id="reference-published"', 'id="measure-published"', 'class="sort"', 'class="scroll"'):
        assert any(part in each for each in reached), part


def test_every_download_of_every_page_is_there_and_can_be_read(browser: Any, built: Path) -> None:
    found = set()
    for kind in KINDS:
        page = next(built.glob(kind))
        visit(browser, page)
        for link in browser.find_elements("css selector", "a[download]"):
            path = (page.parent / link.get_dom_attribute("href")).resolve()
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".csv":
                lines = list(csv.reader(path.open(newline="")))
                assert len({len(line) for line in lines}) <= 1, path
            assert path.stat().st_size
            found.add(path.suffix)
        figures = browser.find_elements("css selector", "main .scroll table, main figure svg")
        assert len(figures) <= len(
            browser.find_elements(
                "css selector", "main a[download][href$='.csv'], main [data-download=csv], main pre + .scroll"
            )
        )
    assert found == {".csv", ".json", ".md", ".tex"}


def test_a_hundred_hostile_strings_are_shown_as_text_and_never_run(browser: Any, tmp_path: Path) -> None:
    texts = [f"{HOSTILE[k % len(HOSTILE)]} n{k}." for k in range(100)]
    task = made.task("made-mito", classes=("background", texts[0]))
    for k in range(0, 100, 4):
        title, licence, citation, other = texts[k : k + 4]
        result = made.result(f"model-{k}", task, 0, status="diverged" if k % 8 else "done")
        card = {"title": title, "licence": licence, "citation": citation, "family": other}
        card |= {"pretraining": title, "pretraining_data": licence}
        texts_of_result = {"message": other, "environment": {title: {licence: [other]}}}
        texts_of_result |= {"recipe": {**result.recipe, licence: citation}, "weights": {"file": title, other: licence}}
        texts_of_result |= {"leakage": {"pretraining": title, "checked": False, "note": other}}
        hostile = result.model_copy(update={**texts_of_result, "model": result.model.model_copy(update=card)})
        save(hostile, tmp_path / "results" / f"{k}" / "seed-0.json")
    cli.build([tmp_path / "results"], tmp_path / "site", tmp_path)
    browser.get_log("browser")
    seen = ""
    for page in sorted((tmp_path / "site").rglob("*.html")):
        visit(browser, page)
        assert "embench" in browser.title
        assert browser.find_elements("css selector", "iframe, base, main style, svg[onload], a[href^=javascript]") == []
        scripts = browser.find_elements("css selector", "script:not([src$='site.js']):not([type='application/json'])")
        assert scripts == []
        seen += browser.execute_script("return document.body.textContent")
    assert browser.get_log("browser") == []
    for text in texts:
        assert text in seen
