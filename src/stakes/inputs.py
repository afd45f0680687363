"""From the words of the command line to a network, pictures, classes and anchors, all checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from cyclopts import Parameter

from stakes.anchors import Anchors
from stakes.classifier import Classifier
from stakes.data import Splits, load_data
from stakes.errors import InputError
from stakes.forget import ForgetSet
from stakes.methods.base import resolve_anchors

Triple = tuple[float, float, float]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The network, the pictures to forget, and what there is to score on."""

    model: str
    """timm:NAME, torchvision:NAME, hf:FOLDER, stakes:NAME, path/to/file.py:factory, or a folder
    that stakes wrote."""
    forget: str
    """The pictures to forget: a folder of class folders, a .csv with path,label, or random:K of
    the training data."""
    weights: Path | None = None
    """The trained weights: .safetensors, or a .pt, .pth, .th state dict."""
    data: str | None = None
    """A folder with train/<class> and test/<class>, or cifar10, cifar100, digits. It is scored
    on, and random:K draws from it; the method does not see the rest."""
    data_root: Path | None = None
    """Where named data sets are kept; by default ~/.cache/stakes."""
    download: bool = False
    """Fetch a named data set that is not there."""
    classes: Path | None = None
    """A text file with one class name a line, in the order of the network's outputs; by default
    the classes of the data."""
    anchors: str | None = None
    """digits, cifar10, cifar100, a file that `stakes anchors` wrote, a .npy, or head. By default
    the shipped set of these classes; where there is none, head: the rows of the last layer."""
    mean: Triple | None = None
    """Mean of the input normalisation, for pixels in [0, 1]; by default the model's own."""
    std: Triple | None = None
    """Standard deviation of the normalisation; by default the model's own."""
    input_size: int | None = None
    """Side of the network's input in pixels; by default the model's own."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto: an accelerator where there is one."""
    max_memory: float | None = None
    """Most GiB that the forget set may take; by default half of what is free."""
    seed: int = 0
    """Seed of every random choice."""


@dataclass(frozen=True)
class Loaded:
    """What :class:`Inputs` turned out to be."""

    classifier: Classifier
    forget: ForgetSet
    anchors: Anchors
    splits: Splits | None


def load(inputs: Inputs) -> Loaded:
    """Load and check everything, so that nothing fails once the long work has begun.

    Raises:
        InputError: one line saying what was wrong, where, and what to do.
    """
    device = pick_device(inputs.device)
    names = _class_names(inputs)
    classifier = Classifier.load(
        inputs.model,
        weights=inputs.weights,
        class_names=names,
        num_classes=None if names is None else len(names),
        input_size=inputs.input_size,
        mean=inputs.mean,
        std=inputs.std,
        device=str(device),
    )
    names = classifier.class_names
    splits = None
    if inputs.data is not None:
        splits = load_data(
            inputs.data,
            root=inputs.data_root,
            download=inputs.download,
            size=classifier.input_size,
            class_names=names,
        )
    free = psutil.virtual_memory().available / 2
    forget = ForgetSet.parse(
        inputs.forget,
        None if splits is None else splits.train,
        names,
        seed=inputs.seed,
        size=classifier.input_size,
        max_bytes=int(free if inputs.max_memory is None else inputs.max_memory * 2**30),
    )
    return Loaded(classifier, forget, resolve_anchors(classifier, inputs.anchors), splits)


def pick_device(name: str) -> torch.device:
    """The device that ``name`` means.

    Raises:
        InputError: no such device, or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name} cannot be used here: {reason}") from error
    return device


def _class_names(inputs: Inputs) -> Sequence[str] | None:
    """The classes in the order of the outputs; None where the model's own card says them."""
    if inputs.classes is not None:
        if not inputs.classes.is_file():
            raise InputError(f"--classes {inputs.classes}: no such file; one class name a line")
        lines = inputs.classes.read_text(encoding="utf-8").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        if len(set(names)) < max(len(names), 2):
            raise InputError(f"--classes {inputs.classes}: wanted two or more different names")
        return names
    if (Path(inputs.model) / "model.json").is_file() or inputs.model.endswith(".safetensors"):
        return None
    if inputs.data is not None:
        found = load_data(inputs.data, root=inputs.data_root, download=inputs.download)
        return found.class_names
    if inputs.anchors not in (None, "head"):
        return Anchors.load(str(inputs.anchors)).class_names
    raise InputError(
        "the classes are not known: add --data, --classes FILE (one name a line, in the order of "
        "the network's outputs), or --anchors of these classes"
    )
