"""Scripts outside the package, as modules."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).resolve().parents[1]


def loaded(file: Path) -> ModuleType:
    """A script as a module of its own, made anew at each call."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def benchmark(name: str) -> ModuleType:
    """A script of the benchmarks; without these, the test skips."""
    file = PROJECT / "benchmarks" / f"{name}.py"
    if not file.is_file():
        pytest.skip("no benchmarks folder beside the tests")
    return loaded(file)
