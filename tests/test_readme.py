"""What the README says: its Python runs as it stands, its commands and methods exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from stakes import METHODS, Classifier
from stakes.cli.commands import make_app

pytestmark = pytest.mark.slow

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
CLASSES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture
def cifar_folder(tmp_path: Path) -> Path:
    """Noise in the place of CIFAR-10, and weights with the names of the public ones."""
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for name in CLASSES:
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(2 if split == "train" else 1):
                pixels = torch.randint(0, 256, (32, 32, 3), generator=generator).byte()
                Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    network = Classifier.load("stakes:cifar_resnet20", num_classes=10)
    state = {f"module.{name}": value for name, value in network.network_state().items()}
    torch.save({"state_dict": state}, tmp_path / "resnet20-12fca82f.th")
    return tmp_path


def test_the_python_example_runs_as_it_stands(cifar_folder, unattacked, monkeypatch):
    (code,) = blocks("python")
    monkeypatch.chdir(cifar_folder)
    quick = code.replace("CIFAR10_FOLDER", "data").replace(
        "StructGuard()", "StructGuard(max_steps=1, probe_batch=8)"
    )
    quick = quick.replace("data.train, 64", "data.train, 8")
    assert quick.count("max_steps=1") == quick.count("data.train, 8") == 1
    names: dict[str, object] = {}
    exec(quick, names)
    row = names["row"]
    assert row["n_test"] == 10
    assert row["n_retain"] == 12
    assert (cifar_folder / "OUT" / "model.safetensors").exists()


def test_the_example_is_under_ten_statements():
    (code,) = blocks("python")
    assert len(compile(code, "README", "exec", flags=1024).body) < 10  # 1024: only the tree


@pytest.mark.parametrize("line", [
    line.strip()
    for block in blocks("sh")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("stakes ")
])  # fmt: skip
def test_every_command_is_one_that_the_program_takes(line):
    tokens = shlex.split(line)[1:]
    command, _, _ = make_app(tokens).parse_args(tokens, print_error=False, exit_on_error=False)
    assert callable(command)


def test_the_table_lists_methods_that_there_are():
    _, table = TEXT.split("## Methods\n")
    listed = set(re.findall(r"^\| `(\w+)", table.partition("\n## ")[0], flags=re.MULTILINE))
    assert len(listed) > 20
    assert listed <= set(METHODS)


def test_its_tables_are_those_of_the_rows():
    script = README.parent / "benchmarks" / "readme_tables.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True)


def test_its_image_is_there():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT):
        assert (README.parent / path).stat().st_size > 10_000
