"""A search page that works from disk: its index is in the page, and nothing is fetched."""

import html
import json
import re
from pathlib import Path
from typing import Any

PLACE = "SEARCH_INDEX"
HEADING = re.compile(r'<h([1-4]) id="([^"]+)"[^>]*>(.*?)</h\1>', re.DOTALL)
_sections: list[dict[str, str]] = []


def on_pre_build(**_: Any) -> None:
    """Called by mkdocs before the pages are made."""
    _sections.clear()


def on_page_content(markup: str, page: Any, **_: Any) -> None:
    """Called by mkdocs for each page: keep each section's title, place and words."""
    if page.file.src_uri == "search.md":
        return
    found = list(HEADING.finditer(markup))
    for i, match in enumerate(found):
        end = found[i + 1].start() if i + 1 < len(found) else len(markup)
        title = _words(match[3]).rstrip("¶").strip()
        _sections.append(
            {
                "page": page.title,
                "title": title,
                "url": f"{page.url}#{match[2]}",
                "text": _words(markup[match.end() : end]),
            }
        )


def on_post_build(config: Any, **_: Any) -> None:
    """Called by mkdocs at the end: put the index into the page."""
    path = Path(config["site_dir"]) / "search.html"
    index = json.dumps(_sections, ensure_ascii=False).replace("<", "\\u003c")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(PLACE, index), encoding="utf-8")


def _words(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())
