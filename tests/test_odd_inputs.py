"""Inputs that people really bring: each is refused in one line that says a way out.

One table for every kind of input: what lies in the folder, the command, and what has to be said.
"""

import contextlib
import io
import json
import os
import re
import shlex
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from command_line import write_images
from conftest import CLASSES, blobs
from stakes import Classifier
from stakes.cli import commands as cli
from stakes.models.networks import MODELS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn", "unattacked")]

#: A message says what to do by one of these.
WAY_OUT = re.compile(
    r"\b(give|pass|takes|fetch|describe|ask|add|check|choose|name|names|save|remove|write|copy|take|see|rename|correct|put|count|"
    r"expected|did you mean|use|install|run|call|make|return|returns|let|load|keep|divide|needs|train|"
    r"say|says|repair|find|lists|set|must|quote|can give|has|draws|allow|only with|start|leave|below|"
    r"the classes are|did you|switch|build|belongs)\b"
)
SECONDS = 60  # for one row; a machine may be busy

Files = dict[str, Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Images of four colours, and weights for them; nothing in it is written by a row."""
    place = tmp_path_factory.mktemp("place")
    write_images(place / "data/train", *blobs(12, 0), CLASSES)
    write_images(place / "data/test", *blobs(8, 1), CLASSES)
    torch.manual_seed(0)
    network = MODELS["digits_cnn"](4)
    torch.save(network.state_dict(), place / "net.th")
    Classifier.load(
        "stakes:digits_cnn", weights=place / "net.th", class_names=sorted(CLASSES), input_size=8
    ).save(place / "saved")
    return place


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def an_end() -> Iterator[None]:
    """Fail where something waits without end, such as for a pipe."""

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f"no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def furnish(here: Path, place: Path, files: Files) -> None:
    """Write what a row needs: text, bytes, None for a folder, or a function of the path."""
    for name, content in files.items():
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match content:
            case None:
                path.mkdir()
            case str():
                path.write_text(content, encoding="utf-8")
            case bytes():
                path.write_bytes(content)
            case _:
                content(path)


def unlearn(**changes: str | None) -> str:
    """The usual command with other options; None leaves one out."""
    options = {
        "model": "stakes:digits_cnn", "input-size": "8", "weights": "{place}/net.th",
        "data": "{place}/data", "forget": "random:3", "out": "OUT", "device": "cpu",
    }  # fmt: skip
    options |= {name.replace("_", "-"): value for name, value in changes.items()}
    words = [f"--{name} {value}" for name, value in options.items() if value is not None]
    return " ".join(["unlearn", *words])


def line_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command says."""
    capsys.readouterr()
    with an_end():
        code = cli.main(words)
    out, err = capsys.readouterr()
    line = err.splitlines()[-1] if err else ""
    assert code in (1, 2), f"accepted: {out} {err}"
    assert line.startswith("stakes: "), err
    assert "Traceback" not in err
    assert len(line) < 700
    assert line.isprintable(), repr(line)
    return line


# what lies in files


def saved(content: Any, **options: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content() if callable(content) else content, path, **options)


def tensors(**named: Any) -> Callable[[Path], None]:
    return lambda path: save_file(named, path)


def state(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """A file of weights that would fit but for a change."""

    def write(path: Path) -> None:
        torch.manual_seed(0)
        own = MODELS["digits_cnn"](4).state_dict()
        found = change(own)
        torch.save(own if found is None else found, path)

    return write


def cut(write: Callable[[Path], None]) -> Callable[[Path], None]:
    """A file of which the second half is missing."""

    def cut_off(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cut_off


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def image(path: Path, size: tuple[int, int] = (8, 8), value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 20, 30)).save(path, "PNG")


def as_png(value: int = 90) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 20, 30)).save(file, "PNG")
    return file.getvalue()


def cut_image(path: Path) -> None:
    image(path, (64, 64))
    path.write_bytes(path.read_bytes()[:60])


def array(value: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, value, allow_pickle=True)


def card(**changes: Any) -> Files:
    """A saved network whose card says something else; None leaves a field out."""

    def write(path: Path) -> None:
        folder = path.parent
        torch.manual_seed(0)
        Classifier.load("stakes:digits_cnn", num_classes=4, input_size=8).save(folder)
        content = json.loads((folder / "model.json").read_text()) | changes
        rest = {key: value for key, value in content.items() if value != "gone"}
        (folder / "model.json").write_text(json.dumps(rest))

    return {"net/made": write}


DEEP = "[" * 100_000
PNG = "data/{}/{}/{}.png"
OWN = "from torch import nn\nimport torch\ninput_size = 8\nmean = 0.5\n"
FLAT = "nn.Sequential(nn.Flatten(), nn.Linear(192, 4))"


def own(body: str) -> Files:
    return {"own.py": OWN + body}


def hf(**config: Any) -> Files:
    plain = {
        "model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 8, "image_size": 8, "patch_size": 4,
        "id2label": {str(i): name for i, name in enumerate(sorted(CLASSES))},
    }  # fmt: skip
    return {"hf/config.json": json.dumps(plain | config)}


def folder(*names: str) -> Files:
    return dict.fromkeys(names, image)


def recipe(**changes: str) -> Files:
    parts = {
        "top": 'forget = "random:{{k}}"\nk = [4]\nseeds = [0]',
        "common": '[common]\ndata = "digits"',
        "network": '[[network]]\nmodel = "stakes:digits_cnn"\nweights = "random"',
        "method": '[[method]]\nmethod = "neggrad"',
    } | changes
    return {"r.toml": "\n".join(parts.values()).replace("{{", "{").replace("}}", "}")}


def shard(*members: tuple[str, bytes], classes: str = "blue\ngreen\ngrey\nred") -> Files:
    """A folder of training data in one tar shard."""

    def write(path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

    return {"data/train/0.tar": write, "data/classes.txt": classes}


def measure(body: str) -> tuple[Files, str]:
    """A run with a measure of the user's own."""
    return {"m.py": f"import torch\n{body}"}, unlearn(metric="m.py:f") + " --force"


def method(body: str) -> tuple[Files, str]:
    """A run by a method of the user's own."""
    head = "from dataclasses import dataclass\nfrom stakes.methods import Method, NegGrad\n"
    return {"m.py": head + body}, unlearn(method="m.py:Mine", eval_samples="2") + " --force"


def evaluate(**changes: str | None) -> str:
    """The command that scores a network again."""
    words = unlearn(**({"out": None, "unlearned": "{place}/saved"} | changes))
    return words.replace("unlearn ", "evaluate ", 1)


def sidecar(**changes: str | None) -> str:
    """The command that makes a sidecar."""
    words = unlearn(**({"forget": None, "out": "s.safetensors"} | changes))
    return words.replace("unlearn ", "sidecar ", 1)


DATACLASS = "@dataclass(frozen=True, kw_only=True)\n"
NUMBERS = {
    "seed": ["-1", "1.5", "nan", "inf", "1e38", "x", "''", "9" * 5000],
    "input-size": ["0", "-1", "2.5", "1e9", "0x8", "8x", "8x8x8", "99999", "x", "nan"],
    "crop-share": ["0", "-1", "2", "nan", "inf", "x"],
    "max-memory": ["0", "-1", "nan", "inf", "x"],
    "eval-samples": ["0", "-1", "2.5", "nan", "x"],
    "max-steps": ["0", "-1", "2.5", "nan", "inf", "1e38", "100000000000", "x"],
    "lr": ["-1", "nan", "inf", "1e38", "x"],
    "margin": ["-1", "nan", "1e38"],
    "depth": ["-0.1", "1.5"],
    "mean": ["nan 0 0", "inf 0 0", "1e300 0 0", "123.7 116.3 103.5", "x 0 0", "0.5", "0.5 0.5"],
    "std": ["0 1 1", "-1 1 1", "1e-46 1 1", "1e300 1 1", "nan 1 1", "58 57 57", "x 1 1", "1"],
}
CHOICES = {
    "method": ["structgard", "''", "nothing"], "preset": ["papr", "x"], "deletion": ["foo"],
    "resize": ["foo"], "interpolation": ["foo"], "precision": ["fp4"], "device": ["gpu", "cuda:99"],
    "batch-norm": ["on"],
}  # fmt: skip

ROWS: dict[str, tuple[Files, str, str]] = {
    # the command line
    "no such command": ({}, "unlern", "there is no command unlern; did you mean unlearn"),
    "no option at all": ({}, "unlearn", "needs --model, --forget and --out"),
    "nothing to report": ({}, "report --out x.html", "name at least one run folder"),
    "an option of another program": ({}, unlearn(epochs="3"), "did you mean --max-steps"),
    "an option near in spelling": ({}, unlearn(max_step="3"), "did you mean --max-steps"),
    "an option near to nothing": ({}, unlearn(verbosity="3"), "--help lists the options"),
    "an option of another method": ({}, unlearn(saliency="1"), "of salun: add --method"),
    "an option twice": ({}, unlearn() + " --seed 1 --seed 2", "--seed is given twice"),
    "a value that is missing": ({}, unlearn() + " --seed", "--seed needs a value"),
    "a stray word": ({}, unlearn() + " stray", "stray belongs to no option"),
    "a switch with a value": ({}, unlearn() + " --overwrite yes", "yes belongs to no option"),
    # a file of options
    "config missing": ({}, unlearn(config="c.toml"), "c.toml: no such file"),
    "config a folder": ({"c.toml": None}, unlearn(config="c.toml"), "is a folder"),
    "config a pipe": ({"c.toml": pipe}, unlearn(config="c.toml"), "a pipe or device"),
    "config no TOML": ({"c.toml": "lr = "}, unlearn(config="c.toml"), "is not TOML"),
    "config binary": ({"c.toml": b"\xff\xd8\xff\0"}, unlearn(config="c.toml"), "line 1: no text"),
    "config nested": ({"c.toml": "a = " + DEEP}, unlearn(config="c.toml"), "is not TOML"),
    "config of tables": ({"c.toml": "[unlearn]\nlr = 1"}, unlearn(config="c.toml"), "unknown option"),
    "config near": ({"c.toml": "lrr = 1"}, unlearn(config="c.toml"), "did you mean lr"),
    "config: anchors": ({"c.toml": 'anchors = "nowhere"'}, unlearn(config="c.toml"), "no anchors nowhere"),
    "config: seed": ({"c.toml": "seed = 1.5"}, unlearn(config="c.toml"), "seed = 1.5 in c.toml"),
    "config: mean": ({"c.toml": "mean = [1, 2]"}, unlearn(config="c.toml"), "--mean"),
    "config: a list": ({"c.toml": "lr = [1, 2]"}, unlearn(config="c.toml"), "lr"),
    "config: a date": ({"c.toml": "seed = 2020-01-01"}, unlearn(config="c.toml"), "seed"),
    "config: true": ({"c.toml": "seed = true"}, unlearn(config="c.toml"), "seed"),
    "config: a table": ({"c.toml": "seed = {a = 1}"}, unlearn(config="c.toml"), "seed"),
    # weights
    "weights missing": ({}, unlearn(weights="w.pt"), "w.pt: no such file"),
    "weights not given": ({}, unlearn(weights=None), "would be random: add --weights"),
    "weights an empty word": ({}, unlearn(weights="''"), "weights"),
    "weights a folder": ({"w": None}, unlearn(weights="w"), "is a folder; name the file"),
    "weights a pipe": ({"w.pt": pipe}, unlearn(weights="w.pt"), "a pipe or device"),
    "weights a loop of links": ({"w.pt": link("w.pt")}, unlearn(weights="w.pt"), "check the path"),
    "weights of nobody": ({}, unlearn(weights="~nobody-here/w.pt"), "give the full path"),
    "weights of a long name": ({}, unlearn(weights="w" * 300 + ".pt"), "check the path"),
    "weights empty": ({"w.pt": b""}, unlearn(weights="w.pt"), "is empty"),
    "weights a web page": ({"w.pt": "<html>"}, unlearn(weights="w.pt"), "cut off or not a PyTorch"),
    "weights of which half is missing": ({"w.pth": cut(saved({"a": torch.ones(20_000)}))}, unlearn(weights="w.pth"), "w.pth is cut off.*copy it again"),
    "weights cut off": ({"w.pt": b"PK\x03\x04 no"}, unlearn(weights="w.pt"), "cut off or not"),
    "weights JSON": ({"w.safetensors": "{}"}, unlearn(weights="w.safetensors"), "cut off or not"),
    "weights with a wild header": (
        {"w.safetensors": b"\xff" * 8 + b"{}"}, unlearn(weights="w.safetensors"), "cut off or not"),
    "weights of four bits": (
        {"w.safetensors": (lambda h: len(h).to_bytes(8, "little") + h + b"\0")(
            b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}')},
        unlearn(weights="w.safetensors"), "not a safetensors file|tensors of"),
    "weights a whole model": ({"w.pt": saved(lambda: nn.Linear(2, 2))}, unlearn(weights="w.pt"), "nothing in it was run"),
    "weights a bare tensor": ({"w.pt": saved(torch.ones(3))}, unlearn(weights="w.pt"), "one bare tensor"),
    "weights a list": ({"w.pt": saved([torch.ones(3)])}, unlearn(weights="w.pt"), "holds a list"),
    "weights a number": ({"w.pt": saved(3)}, unlearn(weights="w.pt"), "holds a int"),
    "weights an empty dict": ({"w.pt": saved({})}, unlearn(weights="w.pt"), "holds no tensors"),
    "weights of words": ({"w.pt": saved({"a": "b"})}, unlearn(weights="w.pt"), "holds no tensors"),
    "weights by numbers": ({"w.pt": saved({0: torch.ones(2)})}, unlearn(weights="w.pt"), "holds no tensors"),
    "weights of another network": ({"w.pt": saved({"fc.weight": torch.ones(2, 2)})}, unlearn(weights="w.pt"), "does not fit"),
    "weights without a key": ({"w.pt": state(lambda s: {n: t for n, t in s.items() if n != "head.bias"})}, unlearn(weights="w.pt"), "1 keys missing"),
    "weights with a key more": ({"w.pt": state(lambda s: s.update(more=torch.ones(1)))}, unlearn(weights="w.pt"), "1 keys unexpected"),
    "weights of another shape": ({"w.pt": state(lambda s: s.update({"head.bias": torch.ones(7)}))}, unlearn(weights="w.pt"), "of another shape"),
    "weights of more classes": ({"w.pt": saved(lambda: MODELS["digits_cnn"](7).state_dict())}, unlearn(weights="w.pt"), "7 classes, not 4"),
    "weights with NaN": ({"w.pt": state(lambda s: s.update({"head.bias": torch.full((4,), float("nan"))}))}, unlearn(weights="w.pt"), "NaN or infinite"),
    "weights infinite": ({"w.pt": state(lambda s: s.update({"head.bias": torch.full((4,), float("inf"))}))}, unlearn(weights="w.pt"), "NaN or infinite"),
    "weights with a negative variance": (own("class Net(torch.nn.Module):\n  def __init__(self):\n    super().__init__()\n    self.norm = torch.nn.BatchNorm2d(3)\n    self.norm.running_var.fill_(-9)\n    self.head = torch.nn.Linear(192, 4)\n  def forward(self, x):\n    return self.head(self.norm(x).flatten(1))\ndef make():\n  return Net()"), unlearn(model="own.py:make", weights=None) + " --force", "not finite: its weights .or the variances"),
    "weights sparse": ({"w.pt": saved({"a": torch.eye(2).to_sparse()})}, unlearn(weights="w.pt"), "sparse or quantised"),
    "weights quantised": ({"w.pt": saved({"a": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)})}, unlearn(weights="w.pt"), "sparse or quantised"),
    "weights without values": ({"w.pt": saved({"head.bias": torch.ones(4, device="meta")})}, unlearn(weights="w.pt"), "head|weights|w.pt"),
    "weights all zero": ({"w.pt": state(lambda s: {n: torch.zeros_like(t) for n, t in s.items()})}, unlearn(weights="w.pt"), "nothing but zeros"),
    "weights denormal": ({"w.pt": state(lambda s: {n: t * 1e-42 if t.is_floating_point() else t for n, t in s.items()})}, unlearn(weights="w.pt"), "nothing but zeros"),
    "weights with keys of escapes": ({"w.pt": state(lambda s: s.update({"\x1b[31mk\u202e": torch.ones(1)}))}, unlearn(weights="w.pt"), r"such as \?\[31mk\?|unexpected.*\?\[31mk\?"),
    "weights of two networks": ({"w.pt": state(lambda s: {"state_dict": s, "state_dict_ema": s})}, unlearn(weights="w.pt"), "--weights-key state_dict_ema"),
    "weights without that key": ({}, unlearn(weights_key="ema"), "--weights-key ema"),
    "weights and a saved network": ({}, unlearn(model="{place}/saved"), "with its own weights"),
    # the network
    "model an empty word": ({}, unlearn(model="''"), "unknown model"),
    "model a bare name": ({}, unlearn(model="resnet18"), "unknown model 'resnet18'"),
    "model without a name": ({}, unlearn(model="timm:"), "names no model"),
    "model unknown to timm": ({}, unlearn(model="timm:resnet1"), "did you mean"),
    "model on the hub": ({}, unlearn(model="timm:hf-hub:me/net"), "timm has no model"),
    "model unknown to torchvision": ({}, unlearn(model="torchvision:resnet1"), "torchvision has no"),
    "model unknown to us": ({}, unlearn(model="stakes:resnet"), "stakes has no model"),
    "model of a detector": ({}, unlearn(model="torchvision:fcn_resnet50"), "has no classifier"),
    "model a folder of images": ({}, unlearn(model="{place}/data", weights=None), "no card model.json"),
    "model an address": ({}, unlearn(model="https://example.org/w.pt"), "unknown model"),
    "own code missing": ({}, unlearn(model="own.py:net", weights=None), "no such file"),
    "own code a pipe": ({"own.py": pipe}, unlearn(model="own.py:net", weights=None), "pipe or device"),
    "own code without a name": (own(""), unlearn(model="own.py:", weights=None), "no function|no model"),
    "own code of another name": (own(""), unlearn(model="own.py:net", weights=None), "has no function or class 'net'"),
    "own code with a slip": ({"own.py": "def net(:"}, unlearn(model="own.py:net", weights=None), "SyntaxError"),
    "own code in Latin-1": ({"own.py": b"net = '\xe9'\n"}, unlearn(model="own.py:net", weights=None), "failed at|SyntaxError"),
    "own code that raises": (own("def net(): 1 / 0"), unlearn(model="own.py:net", weights=None), "own.py:5: ZeroDivisionError"),
    "own code that asserts": (own("def net(): assert False"), unlearn(model="own.py:net", weights=None), "AssertionError"),
    "own code that exits": (own("def net(): raise SystemExit(0)"), unlearn(model="own.py:net", weights=None), "ended the program"),
    "own file that exits": ({"own.py": "import sys; sys.exit(0)"}, unlearn(model="own.py:net", weights=None), "ended the program"),
    "own code that needs more": (own("def net(width): pass"), unlearn(model="own.py:net", weights=None), r"net in .*own\.py takes \(width\), but must be callable without arguments"),
    "own code that torch refuses": (own("def net(): return nn.Linear('a', 3)"), unlearn(model="own.py:net", weights=None), r"failed at own\.py:5: TypeError"),
    "own code returning nothing": (own("def net(): pass"), unlearn(model="own.py:net", weights=None), "returned a NoneType"),
    "own code returning a state dict": (own("def net(): return {}"), unlearn(model="own.py:net", weights=None), "returned a dict"),
    "own size that is none": (own("input_size = 'big'\ndef net(): return " + FLAT), unlearn(model="own.py:net", weights=None, input_size=None), "not numbers|input_size"),
    "own mean that is none": (own("mean = 'grey'\ndef net(): return " + FLAT), unlearn(model="own.py:net", weights=None), "mean of own.py:net"),
    "network without parameters": (own("def net(): return nn.Flatten()"), unlearn(model="own.py:net", weights=None), "no floating-point parameters"),
    "network without values": (own("def net(): return " + FLAT + ".to('meta')"), unlearn(model="own.py:net", weights=None), "device meta"),
    "network of another size": (own("def net(): return nn.Sequential(nn.Flatten(), nn.Linear(300, 4))"), unlearn(model="own.py:net", weights=None), "give the input size"),
    "network without a head": (own("def net(): return nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())"), unlearn(model="own.py:net", weights=None), "was taken for the logits"),
    "network ending in a sigmoid": (own(f"def net(): return nn.Sequential({FLAT}, nn.Sigmoid())"), unlearn(model="own.py:net", weights=None), "let the network return plain logits"),
    "network ending in a softmax": (own(f"def net(): return nn.Sequential({FLAT}, nn.Softmax(1))"), unlearn(model="own.py:net", weights=None), "plain logits"),
    "network returning maps": (own("def net(): return nn.Conv2d(3, 4, 1)"), unlearn(model="own.py:net", weights=None), "returns a tensor of shape"),
    "network returning words": (own("class net(nn.Linear):\n  def __init__(self): super().__init__(2, 2)\n  def forward(self, x): return 'cat'"), unlearn(model="own.py:net", weights=None), "without logits"),
    "network of batch statistics": (own("def net(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(144, 4))"), unlearn(model="own.py:net", weights=None), "in a different batch"),
    "network of one value a batch": (own("def net(): return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192, track_running_stats=False), nn.Linear(192, 4))"), unlearn(model="own.py:net", weights=None), "in a different batch|alone"),
    "network that mixes a batch": (own("class net(nn.Module):\n  def __init__(self):\n    super().__init__()\n    self.fc = nn.Linear(192, 4)\n  def forward(self, x):\n    x = x.flatten(1)\n    return self.fc(x - x.mean(0))"), unlearn(model="own.py:net", weights=None), "in a different batch"),
    "network of chance": (own("class net(nn.Module):\n  def __init__(self):\n    super().__init__()\n    self.fc = nn.Linear(192, 4)\n  def forward(self, x): return self.fc(nn.functional.dropout(x.flatten(1), 0.5))"), unlearn(model="own.py:net", weights=None), "a different answer each time|more than its output"),
    "network that detaches": (own("class net(nn.Module):\n  def __init__(self):\n    super().__init__()\n    self.a, self.fc = nn.Linear(192, 8), nn.Linear(8, 4)\n  def forward(self, x): return self.fc(self.a(x.flatten(1)).detach()).detach()"), unlearn(model="own.py:net", weights=None, max_steps="2"), "passes no gradient"),
    "network of one class": (own("def net(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 1))"), unlearn(model="own.py:net", weights=None), "1 classes"),
    "network of other classes": (own("def net(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 9))"), unlearn(model="own.py:net", weights=None), "9 classes"),
    # folders of transformers
    "hf missing": ({}, unlearn(model="hf:none", weights=None), "no folder"),
    "hf empty": ({"hf": None}, unlearn(model="hf:hf", weights=None), "no config.json"),
    "hf no JSON": ({"hf/config.json": "{"}, unlearn(model="hf:hf", weights=None), "cannot be read as JSON"),
    "hf nested": ({"hf/config.json": DEEP}, unlearn(model="hf:hf", weights=None), "cannot be read as JSON"),
    "hf a list": ({"hf/config.json": "[]"}, unlearn(model="hf:hf", weights=None), "JSON list"),
    "hf of no kind": ({"hf/config.json": "{}"}, unlearn(model="hf:hf", weights=None), "image classifier"),
    "hf of text": ({"hf/config.json": '{"model_type": "bert"}'}, unlearn(model="hf:hf", weights=None), "image classifier"),
    "hf of own code": (hf(model_type="mine", auto_map={"AutoConfig": "mine.C"}), unlearn(model="hf:hf", weights=None), "image classifier"),
    "hf from the hub": (hf(model_type="timm_wrapper", architecture="hf-hub:me/net"), unlearn(model="hf:hf", weights=None), "nothing is: save"),
    "hf of several labels": (hf(problem_type="multi_label_classification"), unlearn(model="hf:hf", weights=None), "give each image one class"),
    "hf without weights": (hf(), unlearn(model="hf:hf", weights=None), "has no weights: it needs one of"),
    "hf of wild numbers": (hf(hidden_size=-1), unlearn(model="hf:hf", weights=None), "image classifier"),
    "hf of numbers as words": (hf(hidden_size="many"), unlearn(model="hf:hf", weights=None), "image classifier"),
    "hf index nested": (hf() | {"hf/model.safetensors.index.json": DEEP}, unlearn(model="hf:hf", weights=None), "cannot be read as JSON"),
    "hf index elsewhere": (hf() | {"hf/model.safetensors.index.json": '{"weight_map": {"a": "/etc/x"}}'}, unlearn(model="hf:hf", weights=None), "no parts beside it"),
    "hf classes a list": (hf(id2label=["a", "b"]), unlearn(model="hf:hf", weights=None), "image classifier|weights|classes"),
    # saved networks
    "card missing": (card() | {"net/model.json": ""}, unlearn(model="net", weights=None), "JSON"),
    "card nested": (card() | {"net/model.json": DEEP}, unlearn(model="net", weights=None), "JSON"),
    "card a list": (card() | {"net/model.json": "[1]"}, unlearn(model="net", weights=None), "JSON list"),
    "card of the future": (card(format=99), unlearn(model="net", weights=None), "format 99"),
    "card without a spec": (card(spec="gone"), unlearn(model="net", weights=None), "no usable field 'spec'"),
    "card with a number for a spec": (card(spec=3), unlearn(model="net", weights=None), "'spec'"),
    "card of own code": (card(spec="/x/own.py:net"), unlearn(model="net", weights=None), "if you trust"),
    "card of another digest": (card(digest="0"), unlearn(model="net", weights=None), "another digest"),
    "card of more classes": (card(num_classes=7), unlearn(model="net", weights=None), "another shape|classes"),
    "card of no classes": (card(num_classes=-3), unlearn(model="net", weights=None), "class"),
    "card of fewer names": (card(class_names=["a"]), unlearn(model="net", weights=None), "class names"),
    "card of numbered names": (card(class_names=[1, 2, 3, {}]), unlearn(model="net", weights=None, data="digits"), "class"),
    "card of a wild size": (card(input_size=10**9), unlearn(model="net", weights=None, input_size=None), "size"),
    "card of no size": (card(input_size=0), unlearn(model="net", weights=None, input_size=None), "size"),
    "card of a wild mean": (card(mean=[1e300] * 3), unlearn(model="net", weights=None), "mean"),
    "card of words for a mean": (card(mean=["a"] * 3), unlearn(model="net", weights=None), "mean"),
    "card of a zero std": (card(std=[0.0] * 3), unlearn(model="net", weights=None), "std"),
    "card with a projector": (card(projector={"width": 3}), unlearn(model="net", weights=None), "projector"),
    # classes
    "classes missing": ({}, unlearn(classes="c.txt"), "c.txt: no such file"),
    "classes a folder": ({"c.txt": None}, unlearn(classes="c.txt"), "is a folder"),
    "classes a pipe": ({"c.txt": pipe}, unlearn(classes="c.txt"), "pipe or device"),
    "classes empty": ({"c.txt": ""}, unlearn(classes="c.txt"), "two or more"),
    "classes one": ({"c.txt": "red"}, unlearn(classes="c.txt"), "two or more"),
    "classes twice": ({"c.txt": "red\nred\nblue"}, unlearn(classes="c.txt"), "red appears more than once"),
    "classes in Latin-1": ({"c.txt": "r\xe9d\nblue".encode("latin-1")}, unlearn(classes="c.txt"), "line 1: no text in UTF-8; save"),
    "classes binary": ({"c.txt": b"\x89PNG\r\n\0\0"}, unlearn(classes="c.txt"), "no text"),
    "classes with zero bytes": ({"c.txt": b"a\0b\nc"}, unlearn(classes="c.txt"), "not text"),
    "classes too few": ({"c.txt": "red\ngreen\nblue"}, unlearn(classes="c.txt"), "classes"),
    "classes of escapes": ({"c.txt": "\x1b[31mred\u202e\nb\nc\nd"}, unlearn(classes="c.txt"), r"\?\[31mred\?"),
    "classes of others": ({"c.txt": "a\nb\nc\nd"}, unlearn(classes="c.txt"), "not one of the 4 classes"),
    "classes unknown": ({}, unlearn(data=None, forget="{place}/data/test"), "the classes are not known"),
    # data
    "data missing": ({}, unlearn(data="none"), "no such folder"),
    "data a file": ({"data": "x"}, unlearn(data="data"), "no such folder|folder"),
    "data empty": ({"data": None}, unlearn(data="data"), "no class folders"),
    "data without images": ({"data/a/x.txt": "x", "data/b/y.txt": "y"}, unlearn(data="data"), "no images in the class folders"),
    "data with an empty class": (folder("data/a/1.png") | {"data/b": None}, unlearn(data="data"), "no images in the class folders b"),
    "data to test alone": (folder("data/test/a/1.png", "data/test/b/1.png"), unlearn(data="data"), "no train folder"),
    "data of two trainings": (folder("data/train/a/1.png", "data/Training/a/1.png"), unlearn(data="data"), "keep one of them"),
    "data of other classes to test": (folder("data/Training/a/1.png", "data/Training/b/1.png", "data/Testing/a/1.png"), unlearn(data="data"), "its classes differ"),
    "data in two orders": (folder("data/1/a.png", "data/2/a.png", "data/10/a.png"), unlearn(data="data"), "--classes alphabetical or --classes numerical"),
    "data with a pipe": (folder("data/a/1.png", "data/b/1.png") | {"data/a/2.png": pipe}, unlearn(data="data"), "not a regular file"),
    "data with a broken link": (folder("data/a/1.png", "data/b/1.png") | {"data/a/2.png": link("none")}, unlearn(data="data"), "not a regular file"),
    "data with a link to itself": (folder("data/a/1.png", "data/b/1.png") | {"data/a/2.png": link("2.png"), "data/c": link("c")}, unlearn(data="data"), "not a regular file"),
    "data of words": ({f"data/{c}/1.png": "text" for c in "abcd"}, unlearn(data="data"), "no image in a known format"),
    "data of no bytes": ({f"data/{c}/1.png": b"" for c in "abcd"}, unlearn(data="data"), "no image in a known format|cannot be read"),
    "data cut off": ({f"data/{c}/1.png": cut_image for c in "abcd"}, unlearn(data="data"), "cannot be read as an image"),
    "data of drawings": ({f"data/{c}/1.png": "<svg/>" for c in "abcd"}, unlearn(data="data"), "no image in a known format"),
    "data too few": (folder("data/red/1.png", "data/blue/1.png"), unlearn(data="data"), "classes"),
    "data not there": ({}, unlearn(data="cifar10", data_root="none"), "add --download"),
    # what to forget
    "forget missing": ({}, unlearn(forget="none"), "no such folder"),
    "forget a file that is no table": ({"list.txt": "a.png"}, unlearn(forget="list.txt"), "neither a folder nor a .csv"),
    "forget none": ({}, unlearn(forget="random:0"), "can give 1 to 12"),
    "forget fewer than none": ({}, unlearn(forget="random:-1"), "expected a number"),
    "forget more than there are": ({}, unlearn(forget="random:13"), "can give 1 to 12"),
    "forget a word": ({}, unlearn(forget="random:many"), "expected a number"),
    "forget a half": ({}, unlearn(forget="random:1.5"), "expected a number"),
    "forget an endless number": ({}, unlearn(forget="random:" + "9" * 5000), "random"),
    "forget random without data": ({"c.txt": "\n".join(CLASSES)}, unlearn(data=None, classes="c.txt"), "add --data"),
    "forget no class": ({}, unlearn(forget="classes:"), "give names"),
    "forget an unknown class": ({}, unlearn(forget="classes:rad"), "did you mean red"),
    "forget no share": ({}, unlearn(forget="classes:0%"), "above 0%"),
    "forget too great a share": ({}, unlearn(forget="classes:101%"), "below 100%"),
    "forget every class": ({}, unlearn(forget="classes:red,green,blue,grey"), "leave out at least one"),
    "forget an image": (folder("1.png"), unlearn(forget="1.png"), "give a folder with"),
    "forget an empty folder": ({"f": None}, unlearn(forget="f"), "no images to forget"),
    "forget loose images": (folder("f/1.png"), unlearn(forget="f"), "put it into"),
    "forget another class": (folder("f/rad/1.png"), unlearn(forget="f"), "did you mean red"),
    "forget a class of escapes": ({"f/\x1b[31mrad\u202e/1.png": image}, unlearn(forget="f"), r"'\?\[31mrad\?' is not one of"),
    "forget an image of escapes": ({"f/red/\x1b[2J\u202e.png": b"x"}, unlearn(forget="f"), r"\?\[2J\?\.png: no image"),
    "forget a text": ({"f/red/1.txt": "x"}, unlearn(forget="f"), "no image in a known format"),
    "forget a text called an image": ({"f/red/1.png": "x"}, unlearn(forget="f"), "no image in a known format"),
    "forget a pipe": ({"f/red": None, "f/red/1.png": pipe}, unlearn(forget="f"), "not a regular file"),
    "forget a link to itself": ({"f/red/1.png": link("1.png")}, unlearn(forget="f"), "not a regular file"),
    "forget a class that links to itself": ({"f": None, "f/red": link("red")}, unlearn(forget="f"), "put it into"),
    "forget half an image": ({"f/red/1.png": cut_image}, unlearn(forget="f"), "cannot be read"),
    "forget one image twice over": ({"f/red/1.png": image, "f/blue/1.png": image}, unlearn(forget="f"), "same image with the labels"),
    "table missing": ({}, unlearn(forget="f.csv"), "f.csv: no such file"),
    "table a pipe": ({"f.csv": pipe}, unlearn(forget="f.csv"), "pipe or device"),
    "table empty": ({"f.csv": ""}, unlearn(forget="f.csv"), "expected the header"),
    "table without a header": ({"f.csv": "a.png,red"}, unlearn(forget="f.csv"), "expected the header"),
    "table by semicolons": ({"f.csv": "path;label\na.png;red"}, unlearn(forget="f.csv"), "with commas"),
    "table without rows": ({"f.csv": "path,label\n"}, unlearn(forget="f.csv"), "no rows"),
    "table without an image": ({"f.csv": "path,label\na.png,red"}, unlearn(forget="f.csv"), "line 2: image"),
    "table of a folder": ({"a.png": None, "f.csv": "path,label\na.png,red"}, unlearn(forget="f.csv"), "is a folder"),
    "table without a label": (folder("a.png") | {"f.csv": "path,label\na.png,"}, unlearn(forget="f.csv"), "expected a path and a label"),
    "table with too much": (folder("a.png") | {"f.csv": "path,label\na.png,red,1"}, unlearn(forget="f.csv"), "more columns"),
    "table of numbers": (folder("a.png") | {"f.csv": "path,label\na.png,1"}, unlearn(forget="f.csv"), "name the column index"),
    "table counted from 1": (folder("a.png") | {"f.csv": "path,index\na.png,4"}, unlearn(forget="f.csv"), "count from 0"),
    "table of a wild number": (folder("a.png") | {"f.csv": "path,index\na.png," + "9" * 5000}, unlearn(forget="f.csv"), "count from 0"),
    "table of another class": (folder("a.png") | {"f.csv": "path,label\na.png,rad"}, unlearn(forget="f.csv"), "did you mean red"),
    "table of a column twice": (folder("a.png") | {"f.csv": "path,label,label\na.png,red,blue"}, unlearn(forget="f.csv"), "a column appears twice; keep one"),
    "table of an address": ({"f.csv": "path,label\nhttps://x.org/a.png,red"}, unlearn(forget="f.csv"), "no such file; check the path"),
    "table of itself": ({"f.csv": "path,label\nf.csv,red"}, unlearn(forget="f.csv"), "no image in a known format"),
    "table in Latin-1": ({"f.csv": "path,label\n\xe9.png,red".encode("latin-1")}, unlearn(forget="f.csv"), "line 2: no text in UTF-8; save"),
    "table binary": ({"f.csv": b"PK\x03\x04\xff\xfe"}, unlearn(forget="f.csv"), "no text"),
    "table of an endless cell": ({"f.csv": "path,label\n" + "x" * 200_000 + ",red"}, unlearn(forget="f.csv"), "cannot be read as a table|check the path"),
    # anchors
    "anchors missing": ({}, unlearn(anchors="nowhere"), "there are no anchors nowhere: give"),
    "anchors of others": ({}, unlearn(anchors="digits"), "no anchor for"),
    "anchors of chance, no number": ({}, unlearn(anchors="random:x"), "give a whole number"),
    "anchors of chance, below 0": ({}, unlearn(anchors="random:-1"), "give a whole number"),
    "anchors of chance, endless": ({}, unlearn(anchors="random:" + "9" * 5000), "give a whole number"),
    "anchors a pipe": ({"a.safetensors": pipe}, unlearn(anchors="a.safetensors"), "pipe or device"),
    "anchors a folder": ({"a.npy": None}, unlearn(anchors="a.npy"), "folder|no anchors"),
    "anchors empty": ({"a.npy": b""}, unlearn(anchors="a.npy"), "not an .npy file of numbers|a.npy"),
    "anchors damaged": ({"a.npy": b"\x93NUMPY\x01\0garbage"}, unlearn(anchors="a.npy"), "not an .npy file of numbers"),
    "anchors of words": ({"a.npy": array(np.array(["a", "b"]))}, unlearn(anchors="a.npy"), "of numbers"),
    "anchors of objects": ({"a.npy": array(np.array([{}, {}], dtype=object))}, unlearn(anchors="a.npy"), "of numbers"),
    "anchors of another shape": ({"a.npy": array(np.ones((3, 5)))}, unlearn(anchors="a.npy"), "4 classes"),
    "anchors of one dimension": ({"a.npy": array(np.ones(4))}, unlearn(anchors="a.npy"), "4 classes"),
    "anchors of a number": ({"a.npy": array(np.float64(3))}, unlearn(anchors="a.npy"), "4 classes"),
    "anchors without width": ({"a.npy": array(np.ones((4, 0)))}, unlearn(anchors="a.npy"), "anchor"),
    "anchors of zero": ({"a.npy": array(np.zeros((4, 5)))}, unlearn(anchors="a.npy"), "zero or not finite"),
    "anchors of NaN": ({"a.npy": array(np.full((4, 5), np.nan))}, unlearn(anchors="a.npy"), "zero or not finite"),
    "anchors all the same": ({"a.npy": array(np.ones((4, 5)))}, unlearn(anchors="a.npy"), "the same anchor"),
    "anchors of complex numbers": ({"a.npy": array(np.ones((4, 5)) * 1j)}, unlearn(anchors="a.npy"), "of numbers|zero"),
    "anchors far too wide": ({"a.npy": array(np.eye(4, 10**6, dtype=np.float32))}, unlearn(anchors="a.npy"), "wide"),
    "anchors no safetensors": ({"a.safetensors": "x"}, unlearn(anchors="a.safetensors"), "cannot be read as safetensors"),
    "anchors of several tensors": ({"a.safetensors": tensors(a=torch.ones(1), b=torch.ones(1))}, unlearn(anchors="a.safetensors"), 'no tensor "anchors"'),
    "anchors with odd metadata": ({"a.safetensors": lambda p: save_file({"anchors": torch.eye(4)}, p, metadata={"stakes": "[1]"})}, unlearn(anchors="a.safetensors"), "anchors file"),
    "anchors with odd names": ({"a.safetensors": lambda p: save_file({"anchors": torch.eye(4)}, p, metadata={"stakes": '{"class_names": 3, "card": []}'})}, unlearn(anchors="a.safetensors"), "anchors file"),
    "anchors with deep metadata": ({"a.safetensors": lambda p: save_file({"anchors": torch.eye(4)}, p, metadata={"stakes": DEEP})}, unlearn(anchors="a.safetensors"), "safetensors|anchors file"),
    # tar shards
    "shards without classes": ({"data/train/0.tar": shard(("a.png", b""))["data/train/0.tar"]}, unlearn(data="data"), "classes are numbers: add"),
    "shards that are pipes": ({"data/train/0.tar": pipe, "data/classes.txt": "a\nb"}, unlearn(data="data"), "pipe or device"),
    "shards of garbage": ({"data/train/0.tar": b"x" * 700, "data/classes.txt": "a\nb"}, unlearn(data="data"), "cannot be read as a shard"),
    "shards without images": (shard(("a.txt", b"x")), unlearn(data="data"), "no images in the shards"),
    "shards without a class": (shard(("a.png", b"x")), unlearn(data="data"), "add a.cls"),
    "shards of a class in words": (shard(("a.png", b"x"), ("a.cls", b"red")), unlearn(data="data"), "cannot be read as a shard"),
    "shards of a class below 0": (shard(("a.png", as_png()), ("a.cls", b"-1")), unlearn(data="data"), "labels -1 to -1"),
    "shards of too many classes": (shard(("a.png", as_png()), ("a.cls", b"7")), unlearn(data="data"), "labels 7 to 7"),
    "shards of deep JSON": (shard(("a.png", b"x"), ("a.json", DEEP.encode())), unlearn(data="data"), "cannot be read as a shard"),
    "shards of one name twice": (shard(("a.png", b"x"), ("a.cls", b"0"), ("a.png", b"y")), unlearn(data="data"), "a appears twice"),
    "shards of two kinds of one name": (shard(("a.png", b"x"), ("a.jpg", b"y"), ("a.cls", b"0")), unlearn(data="data"), "a appears twice"),
    # measures and methods of one's own
    "measure without a function": ({"m.py": ""}, unlearn(metric="m.py"), "expected path/to/file.py:function"),
    "measure in no file": ({}, unlearn(metric="m.py:f"), "m.py: no such file"),
    "measure of another name": ({"m.py": ""}, unlearn(metric="m.py:f"), "no function f in m.py"),
    "measure that fails": (*measure("def f(c, g): 1 / 0"), "m.py:2: ZeroDivisionError"),
    "measure that exits": (*measure("def f(c, g): raise SystemExit(0)"), "ended the program"),
    "measure of words": (*measure("def f(c, g): return 'good'"), "gives str; return a number"),
    "measure of an endless number": (*measure("def f(c, g): return 10**5000"), "gives int; return a number"),
    "measure twice": ({"m.py": "def f(c, g): return 1"}, unlearn(metric="m.py:f") + " --metric m.py:f", "appears twice"),
    "measure called like ours": ({"m.py": "def acc_forget(c, g): return 1"}, unlearn(metric="m.py:acc_forget") + " --force", "the row has acc_forget already"),
    "measure called like the steps": ({"m.py": "def steps(c, g): return 1"}, unlearn(metric="m.py:steps") + " --force", "the row has steps already"),
    "method in no file": ({}, unlearn(method="m.py:Mine"), "m.py: no such file"),
    "method with a slip": (*method("class Mine(:"), "failed at m.py:3: SyntaxError"),
    "method that is none": (*method("class Mine: pass"), "derived from stakes.methods.Method"),
    "method that does nothing": (*method(DATACLASS + "class Mine(Method):\n  title = 'x'"), "abstract method"),
    "method without its decorator": (*method("class Mine(NegGrad):\n  strength: int = 1"), "put @dataclass"),
    "method with its own __init__": (*method("class Mine(NegGrad):\n  def __init__(self): pass"), "put @dataclass"),
    "method without a default": (*method(DATACLASS + "class Mine(NegGrad):\n  strength: int"), "missing 1 required keyword-only argument: 'strength'"),
    "method that fails": (*method("class Mine(NegGrad):\n  def unlearn(self, task): raise KeyError('x')"), "your code failed at m.py:4: KeyError"),
    "method without a title": ({"m.py": "from stakes.methods import Method\nclass Mine(Method):\n  def unlearn(self, task): pass"}, unlearn(method="m.py:Mine"), "has no title"),
    "method that widens the head": (*method("class Mine(NegGrad):\n  def unlearn(self, task):\n    import torch\n    task.live.head = torch.nn.Linear(task.live.head.in_features, 5)\n    return super().unlearn(task)"), "other tensors than the network .head.bias, head.weight.; change"),
    "method that adds a layer": (*method("class Mine(NegGrad):\n  def unlearn(self, task):\n    import torch\n    task.live.body = torch.nn.Sequential(task.live.body)\n    return super().unlearn(task)"), "other tensors than the network"),
    "method that returns nothing": (*method("class Mine(NegGrad):\n  def unlearn(self, task): pass"), "returned a NoneType; return an Unlearned"),
    # surrogate data, sidecars, references
    "surrogates missing": ({}, unlearn(surrogates="s"), "no such folder, and no data set of that name; give a folder with images"),
    "surrogates empty": ({"s": None}, unlearn(surrogates="s"), "no images in this folder or below"),
    "surrogates with a pipe": ({"s/a.png": pipe}, unlearn(surrogates="s"), "not a regular file"),
    "surrogates half an image": ({"s/a.png": cut_image}, unlearn(surrogates="s"), "cannot be read as an image"),
    "surrogates that are to be forgotten": (folder("f/red/1.png"), unlearn(forget="f", surrogates="f") + " --force", "every image is a copy"),
    "surrogates for a method without": (folder("s/1.png"), unlearn(surrogates="s", method="neggrad"), "uses no surrogate data"),
    "surrogates and no sidecar": (folder("s/1.png"), unlearn(surrogates="s", sidecar="s.safetensors"), "no such file"),
    "a sidecar and no surrogates": ({}, unlearn(surrogates="s", sidecar="{place}/saved/model.safetensors"), "make it with `stakes sidecar`"),
    "surrogates around the result": (folder("s/1.png"), unlearn(surrogates="s", out="s/OUT"), "give a folder outside it"),
    "sidecar missing": ({}, unlearn(sidecar="s.safetensors"), "no such file"),
    "sidecar a pipe": ({"s.safetensors": pipe}, unlearn(sidecar="s.safetensors"), "pipe or device"),
    "sidecar a network": ({}, unlearn(sidecar="{place}/saved/model.safetensors"), "make it with `stakes sidecar`"),
    "sidecar of deep metadata": ({"s.safetensors": lambda p: save_file({"images": torch.eye(4)}, p, metadata={"stakes": DEEP})}, unlearn(sidecar="s.safetensors"), "make it with `stakes sidecar`"),
    "sidecar of no images": ({}, sidecar(images="0"), "--images 0: give a whole number from 1"),
    "sidecar of too many images": ({}, sidecar(images="9" * 12), "give a whole number from 1"),
    "sidecar below no steps": ({}, sidecar(steps="-1"), "--steps -1: give a whole number from 1"),
    "sidecar over a file": ({"s.safetensors": "mine"}, sidecar(), "exists: give another file, or add --overwrite"),
    "sidecar over the network": ({}, sidecar(out="{place}/saved/model.safetensors") + " --overwrite", "was not written by this command"),
    "sidecar where nothing can be written": ({}, sidecar(out="/proc/nowhere/s.safetensors"), "nothing can be written in /proc"),
    "sidecar under another suffix": ({}, sidecar(out="s.pt"), "ends in .safetensors"),
    "sidecar without data": ({}, sidecar(data=None), "sidecar needs --data"),
    "reference missing": ({}, unlearn(reference="r"), "--reference r: no such network; give a folder"),
    "reference a pickle": ({"r.pt": saved({"a": torch.ones(2)})}, unlearn(reference="r.pt"), "--reference r.pt: no such network"),
    "reference of other classes": (card(class_names=["a", "b", "c", "d"]), unlearn(reference="net") + " --force", "has other classes"),
    "passes of no image": ({}, unlearn(micro_batch="0"), "--micro-batch 0: give 1 to"),
    "passes of endlessly many": ({}, unlearn(micro_batch="9" * 30), "--micro-batch 9+: give 1 to"),
    "weights divided by one process": ({}, unlearn() + " --shard", "start the command with torchrun"),
    "weights divided by another method": ({}, unlearn(method="neggrad") + " --shard", "NegGrad cannot divide its weights"),
    "a dry run over a file": ({"OUT/mine.txt": "x"}, unlearn() + " --dry-run", "is not empty"),
    # where the result goes
    "out not empty": ({"OUT/mine.txt": "x"}, unlearn(), "is not empty: give another folder$"),
    "out a file": ({"OUT": "x"}, unlearn(), "OUT"),
    "out a pipe": ({"OUT": pipe}, unlearn(), "OUT"),
    "out below a file": ({"f": "x"}, unlearn(out="f/OUT"), "f"),
    "out the root": ({}, unlearn(out="/"), "--out"),
    "out of kernels": ({}, unlearn(out="/proc/x"), "/proc"),
    "out of nobody": ({}, unlearn(out="~nobody-here/x"), "give the full path"),
    "out of a long name": ({}, unlearn(out="o" * 300), "out"),
    # retained data
    "retained data missing": ({"c.txt": "\n".join(CLASSES)}, unlearn(data=None, method="retrain", classes="c.txt", forget="{place}/data/test"), "needs retained training data: add --data"),
    # other commands
    "report of nothing": ({}, "report none --out x.html", "none"),
    "report of a file": ({"f": "x"}, "report f --out x.html", "row.json"),
    "report of an empty folder": ({"run": None}, "report run --out x.html", "row.json"),
    "report to no page": ({"run/row.json": "{}"}, "report run --out run/row.json --overwrite", "ends in .html"),
    "report beside nothing": ({"run/row.json": "{}"}, "report run --out x.html --reference none", "none is not a run folder"),
    "report of a list": ({"run/row.json": "[]"}, "report run --out x.html", "row.json"),
    "report of a deep row": ({"run/row.json": DEEP}, "report run --out x.html", "row.json"),
    "evaluate without a network": ({}, unlearn(out=None, unlearned="none").replace("unlearn ", "evaluate ", 1), "none"),
    "evaluate a pickle": ({"u.pt": saved({"a": torch.ones(1)})}, evaluate(unlearned="u.pt"), "--unlearned u.pt: no such network"),
    "evaluate a network of other classes": (card(class_names=["a", "b", "c", "d"]), evaluate(unlearned="net"), "give the one that it was made from"),
    "evaluate to a folder": ({"r.json": None}, evaluate(out="r.json"), "is a folder"),
    "evaluate by no measure": ({}, evaluate(metric="x"), "expected path/to/file.py:function"),
    "evaluate over the network": ({}, evaluate(out="{place}/saved/model.safetensors") + " --overwrite", "ends in .json"),
    "evaluate over a run's row": ({"r.json": '{"method": "neggrad", "unlearned_digest": "0"}'}, evaluate(out="r.json") + " --overwrite", "was not written by this command"),
    "evaluate over something else": ({"r.json": "[1, 2]"}, evaluate(out="r.json") + " --overwrite", "was not written by this command"),
    "evaluate where nothing can be written": ({}, evaluate(out="/proc/nowhere/r.json"), "nothing can be written in /proc"),
    "evaluate over a file": ({"r.json": "{}"}, unlearn(out="r.json", unlearned="{place}/saved").replace("unlearn ", "evaluate ", 1), "exists: give another"),
    "anchors without descriptions": ({}, "anchors --descriptions none --encoder clip --encoder-path x --out a.safetensors", "none"),
    "anchors from a pipe": ({"d.json": pipe}, "anchors --descriptions d.json --encoder clip --encoder-path x --out a.safetensors", "d.json"),
    "anchors from no JSON": ({"d.json": "{"}, "anchors --descriptions d.json --encoder clip --encoder-path x --out a.safetensors", "is not JSON"),
    "anchors from deep JSON": ({"d.json": DEEP}, "anchors --descriptions d.json --encoder clip --encoder-path x --out a.safetensors", "is not JSON"),
    "anchors from a list": ({"d.json": "[]"}, "anchors --descriptions d.json --encoder clip --encoder-path x --out a.safetensors", "must be an object"),
    "anchors from nothing": ({"d.json": '{"a": []}'}, "anchors --descriptions d.json --encoder clip --encoder-path x --out a.safetensors", "at least one attribute"),
    "anchors from numbers": ({"d.json": '{"a": [1]}'}, "anchors --descriptions d.json --encoder clip --encoder-path x --out a.safetensors", "not text"),
    "anchors from Latin-1": ({"d.json": b'{"a": ["\xe9"]}'}, "anchors --descriptions d.json --encoder clip --encoder-path x --out a.safetensors", "UTF-8"),
    "anchors of no encoder": ({}, "anchors --descriptions digits --encoder bert --encoder-path x --out a.safetensors", "there is no encoder bert"),
    "anchors of an absent encoder": ({}, "anchors --descriptions digits --encoder clip --encoder-path none --out a.safetensors", "none"),
    "anchors of own code": ({"enc/config.json": '{"model_type": "clip", "auto_map": {"AutoModel": "m.M"}}', "enc/m.py": "raise SystemExit"}, "anchors --descriptions digits --encoder clip --encoder-path enc --out a.safetensors", "enc"),
    "anchors of a deep encoder": ({"enc/config.json": DEEP}, "anchors --descriptions digits --encoder clip --encoder-path enc --out a.safetensors", "enc"),
    "anchors of a listed encoder": ({"enc/config.json": "[]"}, "anchors --descriptions digits --encoder clip --encoder-path enc --out a.safetensors", "enc"),
    "anchors under another suffix": ({}, "anchors --descriptions digits --encoder clip --encoder-path x --out a.npy", "rename a.npy"),
    "anchors of none a class": ({}, "anchors --descriptions digits --encoder clip --encoder-path x --out a.safetensors --per-class 0", "at least 1"),
    "anchors of a half a class": ({}, "anchors --descriptions digits --encoder clip --encoder-path x --out a.safetensors --per-class 2.5", "a whole number"),
    "describe nothing": ({}, "describe --classes none --model openai:x --out d.json", "none: no such file"),
    "describe by nobody": ({"c.txt": "a\nb"}, "describe --classes c.txt --model x --out d.json", "model|openai"),
    "describe by a broken address": ({"c.txt": "a\nb"}, "describe --classes c.txt --model ollama:x --out d.json --base-url http://[", "base-url|http"),
    "describe none": ({"c.txt": "a\nb"}, "describe --classes c.txt --model ollama:x --out d.json --attributes 0", "attributes"),
    "describe a half": ({"c.txt": "a\nb"}, "describe --classes c.txt --model ollama:x --out d.json --attributes 2.5", "a whole number"),
    "demo below 0": ({}, "demo --seed -1 --out D", "seed"),
    "demo of a half": ({}, "demo --seed 1.5 --out D", "a whole number"),
    "demo of an endless number": ({}, f"demo --seed {'9' * 30} --out D", "seed"),
    "bench of nothing": ({}, "bench none --out B", "no such file, and none of that name"),
    "bench near": ({}, "bench quik --out B", "did you mean quick"),
    "bench of half a job": (recipe(), "bench r.toml --out B --jobs 1.5", "a whole number"),
    "bench of no job": (recipe(), "bench r.toml --out B --jobs 0", "jobs"),
    "bench below no job": (recipe(), "bench r.toml --out B --jobs -1", "jobs"),
    "bench of no thread": (recipe(), "bench r.toml --out B --threads 0", "threads"),
    "bench by a cluster that is none": (recipe(), "bench r.toml --out B --cluster nowhere", "no such file of a scheduler"),
    "bench by a file of no scheduler": (recipe() | {"s.json": "x"}, "bench r.toml --out B --cluster s.json", "no such file of a scheduler"),
    "bench by a pipe": (recipe() | {"s.json": pipe}, "bench r.toml --out B --cluster s.json", "no such file of a scheduler"),
    "bench with a need of nothing": (recipe(), "bench r.toml --out B --cluster local --need GPU", "give NAME=AMOUNT"),
    "bench with a need without a cluster": (recipe(), "bench r.toml --out B --need GPU=1", "add --cluster, or leave it out"),
    "bench of columns that are none": (recipe(), "bench r.toml --out B --columns nothing", "there is no nothing; choose"),
    "bench over a file": (recipe() | {"B": "x"}, "bench r.toml --out B", "is a file: give a folder"),
    "bench over other files": (recipe() | {"B/mine.txt": "x"}, "bench r.toml --out B", "no benchmark wrote: give"),
    "bench of one seed twice": (recipe(top='forget = "random:3"\nseeds = [0, 0]'), "bench r.toml --out B", "different whole numbers"),
    "bench of a slip": (recipe(), "bench r.toml --out B --set x", "key=value"),
    "bench of a needless setting": (recipe(), "bench r.toml --out B --set x=1", "--set x"),
    "recipe a pipe": ({"r.toml": pipe}, "bench r.toml --out B", "r.toml"),
    "recipe no TOML": ({"r.toml": "="}, "bench r.toml --out B", "is not TOML"),
    "recipe deep": ({"r.toml": "a = " + DEEP}, "bench r.toml --out B", "is not TOML"),
    "recipe binary": ({"r.toml": b"\xff\xff"}, "bench r.toml --out B", "r.toml"),
    "recipe of an unknown key": (recipe(top='forgot = "x"'), "bench r.toml --out B", "did you mean forget"),
    "recipe without a method": (recipe(method=""), "bench r.toml --out B", "method"),
    "recipe of a wrong method": (recipe(method='[[method]]\nmethod = "negrad"'), "bench r.toml --out B", "did you mean neggrad"),
    "recipe of a listed method": (recipe(method='[[method]]\nmethod = ["neggrad"]'), "bench r.toml --out B", "method"),
    "recipe of an odd preset": (recipe(method='[[method]]\nmethod = "structguard"\npreset = [1]'), "bench r.toml --out B", "preset"),
    "recipe of a wild number": (recipe(method='[[method]]\nmethod = "neggrad"\nlr = inf'), "bench r.toml --out B", "lr=inf: give"),
    "recipe of half a step": (recipe(method='[[method]]\nmethod = "neggrad"\nmax_steps = 2.5'), "bench r.toml --out B", "max_steps=2.5: give"),
    "recipe of a seed that is none": (recipe(top='forget = "random:3"\nseeds = [1.5]'), "bench r.toml --out B", "seeds"),
    "recipe of seeds below 0": (recipe(top='forget = "random:3"\nseeds = [-1]'), "bench r.toml --out B", "seeds"),
    "recipe of no seeds": (recipe(top='forget = "random:3"\nseeds = 3'), "bench r.toml --out B", "seeds"),
    "recipe of a number to forget": (recipe(top="forget = 3\nseeds = [0]"), "bench r.toml --out B", "forget"),
    "recipe of a common list": (recipe(common="common = [1]").copy(), "bench r.toml --out B", "common"),
    "recipe of a paper that is no table": (recipe(common='paper = "x"'), "bench r.toml --out B", "paper"),
    "recipe of rows that are none": (recipe(common='[common]\ndata = "digits"\n[paper]\nsource = "x"\nrow = 3'), "bench r.toml --out B", "row"),
    "recipe of a setting that is no table": (recipe(common="set = 3"), "bench r.toml --out B", "set"),
    "recipe of a date": (recipe(common='[common]\ndata = "digits"\neval_samples = 2020-01-01'), "bench r.toml --out B", "eval_samples"),
    "recipe of a numbered title": (recipe(top='title = 3\nforget = "random:3"\nseeds = [0]'), "bench r.toml --out B", "title"),
}  # fmt: skip


VALUES = [(name, value) for name, values in (NUMBERS | CHOICES).items() for value in values]


@pytest.mark.parametrize("name", ROWS)
def test_an_odd_input_is_refused_in_one_line(name, place, here, capsys):
    files, command, said = ROWS[name]
    furnish(here, place, files)
    before = sorted(here.rglob("*"))
    line = line_of(shlex.split(command.replace("{place}", str(place))), capsys)
    assert re.search(said, line), line
    assert WAY_OUT.search(line), line
    assert sorted(here.rglob("*")) == before, "it left something behind"


@pytest.mark.parametrize(("name", "value"), VALUES, ids=lambda text: text[:20])
def test_an_impossible_value_is_refused_by_the_name_of_its_option(name, value, place, here, capsys):
    command = f"{unlearn(**{name: None})} --{name} {value}".replace("{place}", str(place))
    words = shlex.split(command)
    if value.startswith("-"):
        words = [*words[:-2], f"--{name}={value}"]
    line = line_of(words, capsys)
    assert name.split("-")[0] in line, line
    assert WAY_OUT.search(line), line


def test_quiet_says_nothing_and_json_the_row(place, here, capsys):
    short = unlearn(method="neggrad", max_steps="1", eval_samples="2", forget="random:1")
    words = [*shlex.split(short.replace("{place}", str(place))), "--force"]
    assert cli.main([*words, "--quiet", "--json"]) in (0, 3)
    out, err = capsys.readouterr()
    assert err == ""
    row = json.loads(out)
    assert row["steps"] == 1
    assert row["input_size"] == "8x8"
    for key in ("mean", "std", "preprocessing", "cpu_capability", "forget_digest"):
        assert row[key], key
    assert cli.main([*words, "--quiet", "--overwrite"]) in (0, 3)
    assert capsys.readouterr() == ("", "")


def test_what_is_left_out_of_the_data_is_said(place, here, capsys):
    for name in ("Training/a", "Training/b", "Testing/a", "Testing/b", "valid/a", "valid/b"):
        image(here / f"data/{name}/1.png", value=len(name) * 9)
    words = unlearn(data="data", method="neggrad", max_steps="1", forget="random:1")
    words = words.replace("{place}/net.th", "random")
    assert cli.main(shlex.split(words)) in (0, 3)
    assert "--data data: not used: valid" in capsys.readouterr().err


def test_names_of_escapes_reach_no_terminal(place, here, capsys):
    """Of a class, an image, a file of weights and a folder that is left out, in a run that works."""
    odd = "\x1b[31m\u202e\x9b"
    for place_, value in (("train/red", 200), ("train/blue", 9), (f"train/{odd}", 60)):
        for i in range(2):
            image(here / f"data/{place_}/{odd}{i}.png", value=value + i)
    image(here / f"data/valid/red/{odd}.png")
    image(here / f"data/test/red/{odd}.png")
    for name in ("blue", odd):
        image(here / f"data/test/{name}/1.png")
    torch.save(MODELS["digits_cnn"](3).state_dict(), here / f"{odd}.th")
    words = unlearn(data="data", weights=None, method="neggrad", max_steps="1", forget="random:2")
    ran = cli.main(
        [*shlex.split(words), "--force", "--weights", f"{odd}.th", "--eval-samples", "2"]
    )
    out, err = capsys.readouterr()
    assert ran in (0, 3), err
    assert "?[31m" in err
    assert all(line.isprintable() for line in (out + err).splitlines())
    assert cli.main([*shlex.split(words), "--weights", f"{odd}.th", "--dry-run", "--force"]) == 2
    words = words.replace("--out OUT", "--out OTHER")
    assert cli.main([*shlex.split(words), "--weights", f"{odd}.th", "--dry-run"]) in (0, 2)
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in (out + err).splitlines())


def test_very_many_jobs_end_where_there_are_few_cells(here, capsys):
    furnish(here, here, recipe())
    with an_end():
        assert cli.main(["bench", "r.toml", "--out", "B", "--jobs", "99999999", "--dry-run"]) == 0
    assert "OMP_NUM_THREADS=1" in capsys.readouterr().out


def test_a_measure_of_ones_own_changes_no_network(place, here, capsys):
    """What it does to the network that it is given stays with it."""
    body = "def f(c, g):\n  c.train()\n  [p.data.zero_() for p in c.parameters()]\n  return 1.0"
    files, words = measure(body)
    furnish(here, place, files)
    words = words.replace("{place}", str(place)) + " --method neggrad --max-steps 2 --json"
    rows = []
    for more in ("", " --metric m.py:f"):
        plain = words.replace(" --metric m.py:f", "") + more + " --eval-samples 4 --overwrite"
        assert cli.main(shlex.split(plain)) in (0, 3)
        rows.append(json.loads(capsys.readouterr().out))
    assert rows[1].pop("f") == rows[1].pop("f_before") == 1.0
    for key in ("unlearned_digest", "acc_forget", "acc_test", "drift_probes"):
        assert rows[0][key] == rows[1][key]
