"""The wheel: built as a release is, it holds all that the package reads, and starts without src."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import stakes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
pytest.importorskip("build", reason="build is not installed")
pytest.importorskip("hatchling", reason="hatchling is not installed")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """What pip would put into an environment."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(out / "unpacked")
    return out / "unpacked"


def test_every_file_of_the_package_is_in_it(unpacked):
    source = Path(stakes.__file__).parent
    wanted = {
        str(path.relative_to(source))
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = unpacked / "stakes"
    assert wanted == {str(path.relative_to(packed)) for path in packed.rglob("*") if path.is_file()}


def test_it_starts_without_the_sources(unpacked, tmp_path):
    program = "import stakes, stakes.cli.commands as c; print(stakes.__file__); c.main(['bench'])"
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.startswith(str(unpacked)), done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_said_in_one_place(unpacked):
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    said = re.search(r"^Version: (.+)$", metadata.read_text(), re.MULTILINE)[1]
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1]
    assert said == declared == cited


def test_it_starts_on_systems_without_the_modules_of_unix(tmp_path):
    program = """
import pkgutil, sys, psutil, torch
sys.modules.update(dict.fromkeys(("fcntl", "resource", "termios", "pwd", "grp")))
import stakes
for module in pkgutil.walk_packages(stakes.__path__, "stakes."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
from stakes.cli.commands import main
main(["--version"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == stakes.__version__, done.stderr
