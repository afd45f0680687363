"""The documentation as it is built: with what the package says, and with nothing fetched."""

import html
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

from browser import chromium, opened
from conftest import built
from stakes import METHODS
from stakes.rows import METRICS, Metric
from stakes.runs.recipe_file import SHIPPED

pytestmark = pytest.mark.slow

mkdocs = pytest.importorskip("mkdocs.exceptions", reason="mkdocs is not installed")
ROOT = Path(__file__).parents[1]
PAGES = sorted(page.stem for page in (ROOT / "docs").glob("*.md"))


def cells(page: Path) -> list[list[str]]:
    """The rows of all tables of a page, as texts."""
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"<tr>(.*?)</tr>", text, flags=re.DOTALL)
    return [
        [words(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, flags=re.DOTALL)]
        for row in rows
    ]


def words(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markup)).split())


def test_every_page_is_built(site):
    assert {page.stem for page in site.glob("*.html")} == {*PAGES, "404"}
    assert not (site / "hooks.py").exists()


def test_every_measure_is_listed_once_with_unit_and_meaning(site):
    listed = Counter(map(tuple, cells(site / "measures.html")))
    for key, (unit, better, meaning, *_) in METRICS.items():
        assert listed[key, meaning, unit, better] == 1, key


def test_a_measure_that_is_explained_nowhere_fails_the_build(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(METRICS, "brand_new", Metric("%", "lower", "nobody has explained it"))
    with pytest.raises(mkdocs.Abort):
        built(tmp_path)
    assert "do not have the same measures: ['brand_new']" in caplog.text


def test_every_method_is_listed_with_its_options(site):
    page = site / "methods.html"
    rows = cells(page)
    text = page.read_text(encoding="utf-8")
    assert {"structguard-paper", "structguard-reference"} <= set(re.findall('h2 id="(.*?)"', text))
    for name, kind in METHODS.items():
        needs = "the images and retained data" if kind.needs_retain else "the images"
        assert [name, kind.title, needs] in rows
        section = text.partition(f'<h2 id="{name}"')[2].partition("<h2 ")[0]
        assert f"--method {name}" in section
        row = r"<code>--([\w-]+)</code></td>\s*<td><code>(.*?)</code>"
        listed = {name: default.lower() for name, default in re.findall(row, section)}
        assert listed == {
            item.name.replace("_", "-"): str(item.default).lower() for item in fields(kind)
        }
        shown = words(section)
        for item in fields(kind):
            assert item.metadata["doc"] in shown
            assert item.metadata["source"] in shown


def test_every_recipe_is_listed(site):
    listed = {row[0] for row in cells(site / "compare-methods.html") if row}
    assert {path.stem for path in SHIPPED.glob("*.toml")} <= listed


def test_every_section_of_the_report_is_explained(site):
    template = (ROOT / "src/stakes/report/templates/run.html.j2").read_text(encoding="utf-8")
    titles = re.findall(r'h\(level, "\w+", name, "([^"]+)"\)', template)
    assert len(titles) > 8
    text = (site / "read-the-report.html").read_text(encoding="utf-8")
    headings = {words(found).rstrip("¶") for found in re.findall(r"<h2[^>]*>(.*?)</h2>", text)}
    assert {*titles} <= headings


def test_nothing_but_links_leads_elsewhere(site):
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        for tag, address in re.findall(r'<(\w+)[^>]*? (?:href|src)="(\w+:[^"]*|//[^"]*)"', text):
            assert tag == "a", page.name
            assert address.startswith("https://"), page.name


def test_formulas_are_typeset_without_a_script(site):
    text = (site / "reproduce.html").read_text(encoding="utf-8")
    drawn = re.findall(r'<p class="formula".*?</p>', text)
    assert len(drawn) == 5
    assert all('role="img"' in one and "currentColor" in one for one in drawn)
    assert "$$" not in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_a_browser_fetches_nothing_and_no_page_is_wider_than_a_phone(site):
    phone = {"width": 360, "height": 740}
    with (
        chromium() as browser,
        opened(browser, site / "index.html", viewport=phone) as (page, heard),
    ):
        for name in PAGES:
            page.goto((site / f"{name}.html").as_uri())
            page.wait_for_load_state("load")
            assert [url for url in heard.requests if not url.startswith("file:")] == []
            assert heard.console == []
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
