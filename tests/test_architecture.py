"""Imports point one way: a package sees only packages of the lines below its own."""

import ast
from pathlib import Path

import pytest

import stakes

ROOT = Path(stakes.__file__).parent
HOUSE = """
    __main__
    cli
    demo
    runs
    methods evaluation sidecar
    training anchors
    models data report
    preprocessing
    rows progress manifest
    files texts
    errors
"""
#: What methods may share.
SHARED = ("base", "fields", "task", "adversarial", "probing", "retaining")
FLOORS = [line.split() for line in HOUSE.strip().splitlines()]
LEVEL = {name: level for level, line in enumerate(reversed(FLOORS)) for name in line}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imports(path: Path) -> set[str]:
    """The modules that a file imports, as dotted names; ``stakes.`` left out of our own."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.removeprefix("stakes.") for name in names if name}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    own = path.relative_to(ROOT).with_suffix("").parts[0]
    for name in imports(path):
        other = name.split(".")[0]
        if other in LEVEL and other != own:
            assert LEVEL[other] < LEVEL[own], f"{path.relative_to(ROOT)} imports stakes.{name}"


def test_every_room_has_its_floor():
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES} == set(LEVEL)


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=lambda p: p.stem)
def test_methods_never_import_each_other(path):
    if path.stem != "__init__":
        own = {name for name in imports(path) if name.startswith("methods")}
        assert own <= {f"methods.{shared}" for shared in SHARED}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "report").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_report_reads_rows_and_files_alone(path):
    assert not any(name.split(".")[0] == "torch" for name in imports(path))
