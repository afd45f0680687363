"""What the pages say of methods, measures, recipes and results, made as they are built.

A comment in a page stands for a part that is made here, so that it cannot go stale:
``<!-- methods -->``, ``<!-- recipes -->``, ``<!-- changelog -->``, ``<!-- table: NAME -->`` (one
of the README's), and ``<!-- measures: KEY KEY ... -->``. Every measure has its place in some
comment of ``measures.md``, or the build fails.
"""

import inspect
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from stakes.methods import METHODS, PRESETS, Method
from stakes.rows import METRICS
from stakes.runs.recipe_file import SHIPPED

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"<!-- table: (\w+) -->")
RESULTS = ROOT / "benchmarks" / "results"
FIGURE = re.compile(r"\(\.\./benchmarks/results/([\w-]+\.svg)\)")
"""What a page shows of the results, by its place in the repository; in the site, in ``figures``."""
MEASURES = re.compile(r"<!-- measures: ([\w\s]+) -->")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Called by mkdocs with the files of the site: add the figures of results."""
    for path in sorted(RESULTS.glob("*.svg")):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Called by mkdocs for each page: put what is made here in the place of the comments."""
    if page.file.src_uri == "measures.md":
        placed = [key for match in MEASURES.finditer(markdown) for key in match[1].split()]
        if sorted(placed) != sorted(METRICS):
            wrong = sorted({*placed} ^ {*METRICS}) or "one of them is there twice"
            raise PluginError(f"measures.md and METRICS do not have the same measures: {wrong}")
    made = MEASURES.sub(lambda match: measures(match[1].split()), markdown)
    made = TABLE.sub(lambda match: results(match[1]), made)
    made = FIGURE.sub(r"(figures/\1)", made)
    for name, part in (("methods", methods), ("recipes", recipes), ("changelog", changelog)):
        if f"<!-- {name} -->" in made:
            made = made.replace(f"<!-- {name} -->", part())
    return made


def measures(keys: Sequence[str]) -> str:
    """A table of these measures: meaning, unit, direction."""
    rows = [(f"`{k}`", METRICS[k].meaning, METRICS[k].unit, METRICS[k].better) for k in keys]
    return _table(("key", "what it is", "unit", "better"), rows)


def methods() -> str:
    """An overview of all methods, then a section on each."""
    overview = [
        (f"[`{name}`](#{name})", kind.title, _needs(kind)) for name, kind in METHODS.items()
    ]
    parts = [_table(("`--method`", "name", "needs"), overview)]
    for name, kind in METHODS.items():
        parts.append(_method(name, f"`--method {name}`", kind))
        for preset, other in PRESETS.get(name, {}).items():
            called = f"`--method {name} --preset {preset}`"
            parts.append(_method(f"{name}-{preset}", called, other))
    return "\n\n".join(parts)


def _method(anchor: str, called: str, kind: type[Method]) -> str:
    hints = get_type_hints(kind)
    rows = [_field(item, hints[item.name]) for item in fields(kind)]
    parts = [
        f"## {kind.title} {{ #{anchor} }}",
        f"{called}. Needs {_needs(kind)}.",
        _prose(kind),
        _table(("option", "default", "what it is", "source"), rows),
    ]
    return "\n\n".join(parts)


def _field(item: Field[Any], hint: object) -> tuple[str, ...]:
    assert item.default is not MISSING
    meaning = item.metadata["doc"]
    if get_origin(hint) is Literal:
        meaning += f" ({', '.join(f'`{choice}`' for choice in get_args(hint))})"
    option = f"`--{item.name.replace('_', '-')}`"
    default = str(item.default).lower() if isinstance(item.default, bool) else f"{item.default}"
    return option, f"`{default}`", meaning, item.metadata["source"]


def _needs(kind: type[Method]) -> str:
    return "the images and retained data" if kind.needs_retain else "the images"


def _prose(kind: type[Method]) -> str:
    """The docstring up to its first section of a list, as Markdown."""
    text = inspect.cleandoc(kind.__doc__ or "")
    text = re.split(r"\n(?:Raises|Attributes|Args):\n", text)[0]
    return text.replace("::\n", ":\n").strip()


def recipes() -> str:
    """A table of the recipes that come with the package."""
    rows = []
    for path in sorted(SHIPPED.glob("*.toml")):
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
        methods, seeds = (str(len(recipe[key])) for key in ("method", "seeds"))
        ks = ", ".join(map(str, recipe.get("k", [])))
        needs = ", ".join(f"`--set {key}=`" for key in recipe.get("set", {}))
        rows.append((f"`{path.stem}`", recipe["title"], methods, ks, seeds, needs))
    return _table(("recipe", "what it is", "methods", "k", "seeds", "needs"), rows)


def results(name: str) -> str:
    """A table of results, as the README has it between its marks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", text, re.DOTALL)
    if found is None:
        raise PluginError(f"the README has no table {name}")
    return found[1]


def changelog() -> str:
    """The project's changelog, without links that lead elsewhere."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return re.sub(r"\[([^]]+)\]\(https?:[^)]+\)", r"\1", text)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
