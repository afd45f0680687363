"""The command line in tests: images and a network on disk, and ways to run a command."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from conftest import CLASSES, blobs
from stakes import Classifier, load_data
from stakes.cli import commands as cli
from stakes.rows import INCOMPLETE

COMMAND = Path(sys.executable).with_name("stakes")


def write_images(folder: Path, pixels: torch.Tensor, labels: torch.Tensor, names) -> None:
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / names[int(label)] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def noise(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 32, 32), generator=generator).to(torch.uint8)


def furnish(place: Path) -> Path:
    """Write images of four colours, and the weights of a network that knows them."""
    for part, count, seed in (("train", 40, 0), ("test", 20, 1)):
        write_images(place / "data" / part, *blobs(count, seed), CLASSES)
    splits = load_data(place / "data")
    network = Classifier.load("stakes:digits_cnn", class_names=splits.class_names, input_size=8)
    images, labels = splits.train.load(range(40)), splits.train.labels
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    network.train()
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert (network.eval()(images).argmax(1) == labels).all()
    state = {f"module.{name}": value for name, value in network.network_state().items()}
    torch.save({"state_dict": state, "best": 1.0}, place / "net.th")
    return place


def command(place: Path) -> list[str]:
    words = f"unlearn --model stakes:digits_cnn --input-size 8 --weights {place}/net.th"
    words += f" --data {place}/data --forget random:6 --lr 3e-3 --probe-batch 32 --out OUT"
    words += " --depth 1 --patience 4 --settle 0.2"
    return shlex.split(words)


def with_options(base: list[str], **changes: str) -> list[str]:
    """The command with other values for options that it has, or none where the value is ""."""
    words = list(base)
    for name, value in changes.items():
        index = words.index(f"--{name}")
        words[index : index + 2] = [f"--{name}", value] if value else []
    return words


def row_of(folder: Path | str) -> dict:
    return json.loads((Path(folder) / "row.json").read_text())


def ran(words: list[str]) -> None:
    """The command writes its result, whether or not it had the steps to forget everything."""
    assert cli.main(words) in (0, INCOMPLETE)


def refused(words: list[str], message: str, capsys, code: int = 2) -> None:
    """The command ends with one line that matches, and leaves the folder as it was."""
    before = sorted(Path.cwd().rglob("*"))
    assert cli.main(words) == code
    out, err = capsys.readouterr()
    line = err.splitlines()[-1]
    assert re.search(message, line), line
    assert line.startswith("stakes: ")
    assert "Traceback" not in err
    assert out == ""
    assert sorted(Path.cwd().rglob("*")) == before


@contextlib.contextmanager
def spawned(words: list[str], folder: Path, **options) -> Iterator[subprocess.Popen]:
    """The command as a process of its own, which does not outlive the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    process = subprocess.Popen(
        [str(COMMAND), *words], cwd=folder, env=environment, stdout=subprocess.PIPE, **options
    )
    try:
        yield process
    finally:
        process.kill()


@dataclass
class Forked:
    """A process of its own, without the seconds that a fresh Python imports for.

    Signals, exit codes and what is left on disk are those of a process. ``err`` is a file.
    """

    number: int
    err: Path

    def wait(self) -> int:
        """The exit code; negative, the signal that killed it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])


def forked(action: Callable[[], int], folder: Path, place: str = "") -> Forked:
    """Call ``action`` in a copy of this process, in ``folder``; ``place`` tells several apart."""
    err = folder.with_name(f"{folder.name}{place}.err")
    number = os.fork()
    if number:
        return Forked(number, err)
    code = 1
    try:
        signal.alarm(240)  # it does not hang for ever
        os.chdir(folder)
        with err.open("w", buffering=1) as sys.stderr, open(os.devnull, "w") as sys.stdout:
            try:
                code = action()
            except BaseException:
                traceback.print_exc()
    finally:
        os._exit(code)


def afresh(package: Path) -> None:
    """Take this project's modules from another folder from now on; in a forked process."""
    root = Path(__file__).parents[1]
    for name, module in [*sys.modules.items()]:
        file = Path(getattr(module, "__file__", None) or "/")
        if file.is_relative_to(root) and not file.is_relative_to(sys.prefix):  # .venv lies in it
            del sys.modules[name]
    sys.path[:0] = [str(package), ""]


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for what another process does; fail where it does not come."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)
