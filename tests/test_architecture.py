"""Imports point one way: a module sees only modules of the lines above its own."""

import ast
from pathlib import Path

import pytest

import stakes

ROOT = Path(stakes.__file__).parent
LINES = [
    "errors files formats progress metrics losses importance structure membership retrieval",
    "weights folders pictures encoders probes inversion runs precision",
    "models data forget_lists figures findings tables describe views checkpoint",
    "balance pace classifier forget anchors attributes tradeoffs typeset",
    "loop knowledge saliency anchor_sources retained drawing",
    "escalate copies_chart paper_charts paper_pictures paper_retrieval",
    "methods audit paper_figures",
    "examples report",
    "evaluate",
    "record inputs",
    "demo options",
    "recipe",
    "runner",
    "benchmark",
    "cli",
    "__main__",
]
LEVEL = {name: level for level, line in enumerate(LINES) for name in line.split()}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, as dotted names below ``stakes``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.removeprefix("stakes.") for name in names if name.startswith("stakes.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = path.relative_to(ROOT).with_suffix("").parts
    for name in imports(path):
        top = name.split(".")[0]
        if top == own[0]:
            continue
        assert LEVEL[top] < LEVEL[own[0]], f"{'/'.join(own)} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=lambda p: p.stem)
def test_methods_never_import_each_other(path):
    if path.stem != "__init__":
        own = {name for name in imports(path) if name.startswith("methods")}
        assert own <= {"methods.base", "methods.probe_base", "methods.retain_base"}
