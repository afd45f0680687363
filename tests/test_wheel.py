"""The wheel: built as a release is, it holds all that the package reads, and starts without src."""

import pkgutil
import re
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

import stakes
from command_line import afresh, forked

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
    def begin() -> int:
        afresh(unpacked)
        sys.stdout = sys.stderr
        from stakes.cli import commands

        print(commands.__file__)
        return commands.main(["bench", "--help"])

    process = forked(begin, tmp_path)
    code, said = process.wait(), process.err.read_text()
    assert code == 0, said
    assert said.startswith(str(unpacked))
    assert "cifar10-resnet20" in said  # a recipe that it found


def test_the_version_is_said_in_one_place(unpacked):
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    said = re.search(r"^Version: (.+)$", metadata.read_text(), re.MULTILINE)[1]
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1]
    assert said == declared == cited


def test_it_starts_on_systems_without_the_modules_of_unix(tmp_path):
    def begin() -> int:
        afresh(Path(stakes.__file__).parents[1])
        sys.modules.update(dict.fromkeys(("fcntl", "resource", "termios", "pwd", "grp")))
        import stakes as again

        for module in pkgutil.walk_packages(again.__path__, "stakes."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
        sys.stdout = sys.stderr
        return import_module("stakes.cli.commands").main(["--version"])

    process = forked(begin, tmp_path)
    code, said = process.wait(), process.err.read_text()
    assert (code, said.strip()) == (0, stakes.__version__)
