"""From the options to a network, a data set, images and anchors, all checked."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from stakes.anchors.anchors import Anchors
from stakes.anchors.sources import made_from_network, resolve_anchors
from stakes.data.datasets import DATASETS, Splits, find_data
from stakes.data.forget import ForgetSet
from stakes.data.forget_words import parse_forget
from stakes.errors import InputError, check_seed
from stakes.models.agreement import Agreement, agreement
from stakes.models.cards import delivered_settings
from stakes.models.classifier import Classifier
from stakes.models.transforms import Unavailable, own_transform
from stakes.preprocessing import sides
from stakes.runs.class_names import are_said, class_names
from stakes.runs.forgotten import Forgotten
from stakes.runs.inputs import Inputs, NetworkInputs
from stakes.runs.reading import CHOICES, WORDS, as_chosen, input_size, originals, refuse_both
from stakes.training.devices import WORKSPACE
from stakes.training.distributed import asked_for, local_rank


@dataclass(frozen=True)
class LoadedNetwork:
    """What :class:`NetworkInputs` name."""

    classifier: Classifier
    splits: Splits | None
    """None without a data set"""


@dataclass(frozen=True)
class LoadedImages(LoadedNetwork):
    """What :class:`Inputs` name, but for the anchors."""

    forget: ForgetSet
    earlier: Forgotten
    """what runs before made the network forget"""
    agreement: Agreement | None
    """with the user's own transform on the images to forget; None without one"""


@dataclass(frozen=True)
class Loaded(LoadedImages):
    """What :class:`Inputs` name."""

    anchors: Anchors


def load(inputs: Inputs) -> Loaded:
    """Load and check everything, so that nothing fails once the long work has begun.

    Raises:
        InputError: one line saying what was wrong, where, and what to do.
    """
    found, anchors = _load(inputs, None)
    resolved = resolve_anchors(found.classifier, anchors, found.forget, inputs.seed)
    return Loaded(**vars(found), anchors=resolved)


def load_images(inputs: Inputs, delivered: Path | None = None) -> LoadedImages:
    """As :func:`load`, where anchors are of no use but to name the classes.

    Args:
        inputs: the options.
        delivered: an unlearned network's folder or file, whose card says how images are read and
            normalised where no option does.

    Raises:
        InputError: one line saying what was wrong, where, and what to do.
    """
    return _load(inputs, delivered)[0]


def _load(inputs: Inputs, delivered: Path | None) -> tuple[LoadedImages, Anchors | str | None]:
    most, anchors = most_bytes(inputs.max_memory), _naming_anchors(inputs)
    names = anchors.class_names if isinstance(anchors, Anchors) else None
    network = load_network(inputs, delivered, names)
    classifier, splits = network.classifier, network.splits
    train = None if splits is None else splits.train
    forget = parse_forget(
        inputs.forget,
        train,
        classifier.class_names,
        seed=inputs.seed,
        size=sides(classifier.input_size)[0],
        read=classifier.preprocessing,
        max_bytes=most,
    )
    agreed = None
    if inputs.transform is not None:
        agreed = agreement(classifier, originals(forget, inputs.forget, train))
    earlier = Forgotten.of(inputs.model, inputs.weights)
    return LoadedImages(classifier, splits, forget, earlier, agreed), anchors


def load_network(
    inputs: NetworkInputs,
    delivered: Path | None = None,
    names: Sequence[str] | None = None,
) -> LoadedNetwork:
    """Load and check a network, and the data set if there is one; no image is read yet.

    Args:
        inputs: the options.
        delivered: see :func:`load_images`.
        names: the classes, where the options do not say them.

    Raises:
        InputError: one line saying what was wrong, where, and what to do.
    """
    check_words(inputs)
    device = pick_device(inputs.device)
    found = None
    if inputs.data is not None:
        found = find_data(inputs.data, root=inputs.data_root, download=inputs.download)
    names = class_names(inputs, found, names)
    own = None if inputs.transform is None else own_transform(inputs.transform)
    held = {} if delivered is None or own is not None else delivered_settings(delivered)
    classifier = Classifier.load(
        inputs.model,
        weights=inputs.weights,
        weights_key=inputs.weights_key,
        class_names=names,
        num_classes=None if names is None else len(names),
        input_size=input_size(inputs.input_size) or held.get("input_size"),
        mean=inputs.mean or held.get("mean"),
        std=inputs.std or held.get("std"),
        preprocessing=own,
        device=str(device),
    )
    if own is None:
        words = {name: getattr(inputs, name) for name in WORDS}
        classifier.preprocessing = as_chosen(classifier, delivered, words)
    if isinstance(classifier.preprocessing, Unavailable) and inputs.data not in DATASETS:
        raise InputError(classifier.preprocessing.advice)  # before any image seems to be at fault
    if found is None:
        return LoadedNetwork(classifier, None)
    splits = found.splits(
        size=sides(classifier.input_size)[0],
        class_names=classifier.class_names,
        read=classifier.preprocessing,
    )
    return LoadedNetwork(classifier, splits)


def check_words(inputs: NetworkInputs) -> None:
    """Refuse what the options say that cannot be, before anything is read.

    Raises:
        InputError: one line saying what was wrong, where, and what to do.
    """
    check_seed(inputs.seed, "--seed")
    _check_trained(inputs)
    input_size(inputs.input_size)
    refuse_both(inputs.transform, {name: getattr(inputs, name) for name in CHOICES})


def most_bytes(max_memory: float | None) -> int:
    """What the forget set may take.

    Raises:
        InputError: a number that cannot be.
    """
    if max_memory is None:
        return int(psutil.virtual_memory().available / 2)
    if not 0 < max_memory <= 2**20:
        raise InputError(f"--max-memory {max_memory}: give a number of GiB above 0")
    return int(max_memory * 2**30)


def _naming_anchors(inputs: Inputs) -> Anchors | str | None:
    """The anchors; loaded already where they alone say the classes."""
    anchors = inputs.anchors
    if anchors is None or made_from_network(anchors) or are_said(inputs):
        return anchors
    return Anchors.load(anchors)


def _check_trained(inputs: NetworkInputs) -> None:
    """Refuse random weights that nobody asked for, with an InputError."""
    kind = inputs.model.partition(":")[0]
    if inputs.weights is None and kind in ("timm", "torchvision", "stakes") and ":" in inputs.model:
        raise InputError(
            f"--model {inputs.model} names an architecture, whose weights would be random: add "
            "--weights FILE (or --weights random, to try what an untrained network does)"
        )


def pick_device(name: str) -> torch.device:
    """The device that ``name`` means.

    Raises:
        InputError: no such device, or not on this machine.
    """
    os.environ.setdefault(*WORKSPACE)  # before anything is computed
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda" if asked_for() == 1 else f"cuda:{local_rank()}")
    if name == "auto":
        return _other_accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"--device {name}: there is no such device; give cpu, cuda, cuda:1, mps, xpu or auto"
        ) from error
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise InputError(
            f"--device {name} cannot be used here ({reason}); give cpu or auto"
        ) from error
    return device


def _other_accelerator() -> torch.device | None:
    """What PyTorch finds here besides CUDA, where a run is one process and can use it.

    It must compute in float64, as L-CODEC and sidecars do: mps cannot.
    """
    if asked_for() > 1 or not torch.accelerator.is_available():
        return None
    device = torch.accelerator.current_accelerator()
    try:
        torch.ones(1, dtype=torch.float64, device=device).sum().item()
    except (RuntimeError, TypeError):
        return None
    return device
