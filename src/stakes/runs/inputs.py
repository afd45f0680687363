"""From the words of the command line to a network, images, classes and anchors, all checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import psutil
import torch
from cyclopts import Parameter

from stakes.anchors.anchors import Anchors
from stakes.anchors.descriptions import read_classes
from stakes.anchors.sources import made_from_network, resolve_anchors
from stakes.data.datasets import DATASETS, Found, Splits, find_data
from stakes.data.folders import counted
from stakes.data.forget import ForgetSet
from stakes.data.forget_words import parse_forget
from stakes.errors import InputError, check_seed
from stakes.models.agreement import Agreement, agreement
from stakes.models.cards import made_by
from stakes.models.classifier import Classifier
from stakes.models.hf import read_json
from stakes.models.specs import RANDOM
from stakes.models.transforms import own_transform
from stakes.preprocessing import Interpolation, sides
from stakes.runs.reading import CHOICES, WORDS, as_chosen, input_size, originals, refuse_both
from stakes.runs.words import (
    EVIDENCE,
    MACHINE,
    NETWORK,
    READING,
    TO_FORGET,
    Number,
    Place,
    Switch,
    Text,
    Whole,
)
from stakes.texts import expanded
from stakes.training.distributed import asked_for, local_rank

Triple = tuple[float, float, float]
ORDERS = ("alphabetical", "numerical")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The network, the images to forget, and what there is to score on."""

    model: Annotated[str, NETWORK]
    """timm:NAME, torchvision:NAME, hf:FOLDER, stakes:NAME, path/to/file.py:factory, or a folder
    that stakes wrote"""
    forget: Annotated[str, TO_FORGET]
    """the images to forget: a folder of class folders, a .csv with path,label, or of the
    training data random:K, classes:NAME,NAME (whole classes) or classes:10% (drawn)"""
    weights: Annotated[Place | None, NETWORK] = None
    """the trained weights: .safetensors, or a .pt, .pth, .th state dict; or the word random, for
    a network that has learned nothing"""
    weights_key: Annotated[str | None, NETWORK] = None
    """which network of the file, where it holds several, such as state_dict_ema"""
    data: Annotated[str | None, EVIDENCE] = None
    """a folder with train/CLASS and test/CLASS, or cifar10, cifar100, digits; it is scored
    on, and random:K and classes: draw from it, but the method does not see the rest, unless it is
    one that needs retained data"""
    data_root: Annotated[Place | None, MACHINE] = None
    """where named data sets are kept; by default ~/.cache/stakes"""
    download: Annotated[Switch, MACHINE] = False
    """fetch a named data set that is not there"""
    classes: Annotated[Place | None, NETWORK] = None
    """a text file with one class name a line, in the order of the network's outputs; by default
    the classes of the data; where these can be ordered in two ways (1, 10, 2), alphabetical or
    numerical says which"""
    anchors: Annotated[str | None, TO_FORGET] = None
    """digits, cifar10, cifar100, a file that `stakes anchors` wrote, a .npy, head (the rows of the
    last layer), prototypes (mean features of the forget images and mixtures of them), or
    random:SEED; by default the shipped set of these classes, else head"""
    mean: Annotated[Triple | None, READING] = None
    """mean of the input normalisation, for pixels in [0, 1]; by default the model's own"""
    std: Annotated[Triple | None, READING] = None
    """standard deviation of the normalisation; by default the model's own"""
    input_size: Annotated[Text | int | None, READING] = None
    """side of the network's input in pixels, or HEIGHTxWIDTH; by default the model's own"""
    transform: Annotated[Text | None, READING] = None
    """your service's own preprocessing, path/to/file.py:factory: a function that makes a transform,
    or a transform itself, from an opened PIL image to the network's input (3, h, w), normalised;
    the file is run"""
    resize: Annotated[Literal["crop", "squash", "pad", "square"] | None, READING] = None
    """how an image file becomes the network's input; by default as the model's library does. crop:
    scale the short side, take the centre; squash: scale both sides; pad: scale the long side, fill
    the rest with black; square: scale the largest centred square, or leave small images to the
    network's own enlarging"""
    crop_share: Annotated[Number | None, READING] = None
    """share of each side that the centre crop takes after scaling, such as 0.875; by default the
    model's own, or 1 where --resize names another rule"""
    interpolation: Annotated[Interpolation | None, READING] = None
    """filter of the scaling; by default the model's own, or bicubic"""
    device: Annotated[str, MACHINE] = "auto"
    """cpu, cuda, cuda:1, or auto: cuda where there is one"""
    max_memory: Annotated[Number | None, MACHINE] = None
    """most GiB that the forget set may take; by default half of what is free"""
    seed: Annotated[Whole, MACHINE] = 0
    """seed of every random choice"""


@dataclass(frozen=True)
class Loaded:
    """What :class:`Inputs` turned out to be."""

    classifier: Classifier
    forget: ForgetSet
    anchors: Anchors
    splits: Splits | None
    agreement: Agreement | None
    """with the user's own transform on the images to forget; None without one"""


def load(inputs: Inputs, delivered: Path | None = None) -> Loaded:
    """Load and check everything, so that nothing fails once the long work has begun.

    Args:
        inputs: the words of the command line.
        delivered: an unlearned network's folder or file, whose card says how images are read
            where no word does.

    Raises:
        InputError: one line saying what was wrong, where, and what to do.
    """
    _check(inputs)
    _check_trained(inputs)
    device = pick_device(inputs.device)
    found = _found(inputs)
    given, names = _named(inputs, found)
    refuse_both(inputs.transform, {name: getattr(inputs, name) for name in CHOICES})
    own = None if inputs.transform is None else own_transform(inputs.transform)
    classifier = Classifier.load(
        inputs.model,
        weights=inputs.weights,
        weights_key=inputs.weights_key,
        class_names=names,
        num_classes=None if names is None else len(names),
        input_size=input_size(inputs.input_size),
        mean=inputs.mean,
        std=inputs.std,
        preprocessing=own,
        device=str(device),
    )
    if own is None:
        words = {name: getattr(inputs, name) for name in WORDS}
        classifier.preprocessing = as_chosen(classifier, delivered, words)
    names, read = classifier.class_names, classifier.preprocessing
    side = sides(classifier.input_size)[0]
    splits = None if found is None else found.splits(size=side, class_names=names, read=read)
    free = psutil.virtual_memory().available / 2
    forget = parse_forget(
        inputs.forget,
        None if splits is None else splits.train,
        names,
        seed=inputs.seed,
        size=side,
        read=read,
        max_bytes=int(free if inputs.max_memory is None else inputs.max_memory * 2**30),
    )
    anchors = resolve_anchors(classifier, given, forget, inputs.seed)
    agreed = None
    if own is not None:
        images = originals(forget, inputs.forget, None if splits is None else splits.train)
        agreed = agreement(classifier, images)
    return Loaded(classifier, forget, anchors, splits, agreed)


def _check(inputs: Inputs) -> None:
    """Refuse numbers that cannot be, with an InputError."""
    check_seed(inputs.seed)
    memory = inputs.max_memory
    if memory is not None and not 0 < memory <= 2**20:
        raise InputError(f"--max-memory {memory}: give a number of GiB above 0")


def pick_device(name: str) -> torch.device:
    """The device that ``name`` means.

    Raises:
        InputError: no such device, or not on this machine.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda" if asked_for() == 1 else f"cuda:{local_rank()}")
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name} is none: give cpu, cuda, cuda:1 or auto") from error
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise InputError(
            f"--device {name} cannot be used here ({reason}); give cpu or auto"
        ) from error
    return device


def _found(inputs: Inputs) -> Found | None:
    """The data set, its images not read yet."""
    if inputs.data is None:
        return None
    return find_data(inputs.data, root=inputs.data_root, download=inputs.download)


def _named(
    inputs: Inputs, found: Found | None
) -> tuple[Anchors | str | None, Sequence[str] | None]:
    """The anchors, loaded where they alone name the classes; and the classes.

    The classes are in the order of the outputs; None where the model itself names them.
    """
    order, anchors = str(inputs.classes), inputs.anchors
    if inputs.classes is not None and order not in ORDERS:
        return anchors, read_classes(inputs.classes)
    if _names_its_classes(inputs):
        return anchors, None
    if found is not None:
        return anchors, _ordered(found.class_names, inputs)
    if anchors is not None and not made_from_network(anchors):
        loaded = Anchors.load(anchors)
        return loaded, loaded.class_names
    raise InputError(
        "the classes are not known: add --data, --classes FILE (one name a line, in the order of "
        "the network's outputs), or --anchors of these classes"
    )


def _ordered(names: Sequence[str], inputs: Inputs) -> Sequence[str]:
    """The classes of a folder in the order that is meant; of two it has to be said which.

    Raises:
        InputError: both orders are there, and none was said.
    """
    if inputs.data in DATASETS:
        return names
    order, by_number = str(inputs.classes), counted(names)
    if order == "numerical":
        return by_number
    if by_number != list(names) and order != "alphabetical":
        at = next(i for i, name in enumerate(names) if name != by_number[i])
        raise InputError(
            f"the classes of --data {inputs.data} have two orders: output {at} of the network is "
            f"{names[at]} by the alphabet (as torchvision takes it), {by_number[at]} by number; "
            "add --classes alphabetical or --classes numerical, as the network was trained"
        )
    return names


def _check_trained(inputs: Inputs) -> None:
    """Refuse random weights that nobody asked for, with an InputError."""
    kind = inputs.model.partition(":")[0]
    if inputs.weights is None and kind in ("timm", "torchvision", "stakes") and ":" in inputs.model:
        raise InputError(
            f"--model {inputs.model} names an architecture, whose weights would be random: add "
            "--weights FILE (or --weights random, to try what an untrained network does)"
        )


def _names_its_classes(inputs: Inputs) -> bool:
    """Whether the model is a saved one with a card, or a transformers folder with class names."""
    kind, _, rest = inputs.model.partition(":")
    if kind == "hf":
        config = expanded(rest) / "config.json"
        if not config.is_file():
            return True  # loading it will say what is wrong
        labels = read_json(config).get("id2label")
        if not isinstance(labels, dict):
            return False
        return not all(str(name).startswith("LABEL_") for name in labels.values())
    if inputs.weights is not None and str(inputs.weights) != RANDOM:
        return made_by(inputs.model, inputs.weights) is not None
    return inputs.model.endswith(".safetensors") or Path(inputs.model).is_dir()
