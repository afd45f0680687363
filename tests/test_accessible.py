"""axe-core finds nothing to object to in the pages of this project, on a desk and on a phone."""

from pathlib import Path

import pytest

from browser import chromium, opened
from stakes.report.page import write_report
from test_report import a_run, audited

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
)
#: Parts of the documentation that are the theme's own.
THEIRS = {"exclude": [["[data-md-component=palette]"], [".md-code__nav"]]}
pytestmark = pytest.mark.slow
OPEN = "document.querySelectorAll('details').forEach(details => details.open = true)"
VIEWS = {
    "desk": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 360, "height": 740}},
    "desk, forced colours": {
        "viewport": {"width": 1280, "height": 800}, "forced_colors": "active",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def pages(site, tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("pages")
    left = {"acc_forget": 25.0, "n_forgotten": 3, "n_recognised": 1, "n_never_recognised": 0}
    incomplete = a_run(place / "incomplete", k=4, outcome="budget", **left)
    runs = [audited(a_run(place / f"r{i}", k=3, seed=i, acc_test=90.0 - i)) for i in range(2)]
    return {
        "run": write_report([audited(a_run(place / "run", k=3))], place / "run.html"),
        "incomplete run": write_report([incomplete], place / "incomplete.html"),
        "comparison": write_report(runs, place / "several.html"),
        "documentation": site / "forget-images.html",
    }


def test_axe_objects_to_nothing(pages):
    found = []
    with chromium() as browser:
        for name, path in pages.items():
            for view, context in VIEWS.items():
                if name == "incomplete run" and view != "desk":
                    continue  # beside the other it has another verdict, in other colours
                with opened(browser, path, **context) as (tab, _):
                    tab.evaluate(OPEN)
                    violations = axe.Axe().run(tab, THEIRS).response["violations"]
                found += [
                    f"{name}, {view}: {item['id']} ({item['help']}) at "
                    f"{node['target']}: {node['html'][:120]}"
                    for item in violations
                    for node in item["nodes"][:3]
                ]
    assert found == []


def test_axe_does_object_where_there_is_reason_to(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<html><body><img src='x.png'><p style='color:#ccc'>faint</p></body></html>")
    with chromium() as browser, opened(browser, bad) as (tab, _):
        kinds = {item["id"] for item in axe.Axe().run(tab).response["violations"]}
    assert {"image-alt", "color-contrast", "html-has-lang"} <= kinds
