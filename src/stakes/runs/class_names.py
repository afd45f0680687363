"""Which classes a network's outputs are, and in which order."""

from collections.abc import Sequence
from pathlib import Path

from stakes.anchors.descriptions import read_classes
from stakes.data.datasets import DATASETS, Found
from stakes.data.folders import counted
from stakes.errors import InputError
from stakes.models.cards import takes_card
from stakes.models.hf import read_json
from stakes.models.specs import RANDOM
from stakes.runs.inputs import NetworkInputs
from stakes.texts import expanded

ORDERS = ("alphabetical", "numerical")


def class_names(
    inputs: NetworkInputs, found: Found | None, fallback: Sequence[str] | None = None
) -> Sequence[str] | None:
    """The classes in the order of the outputs; None where the model itself names them.

    Args:
        inputs: the options.
        found: the data set, or None without one.
        fallback: the classes where the options do not say them (see :func:`are_said`).

    Raises:
        InputError: the classes are not known, or not their order.
    """
    if not are_said(inputs):
        if fallback is None:
            raise InputError(
                "the classes are not known: add --data, --classes FILE (one name per line, in "
                "the order of the network's outputs), or --anchors of these classes"
            )
        return fallback
    if inputs.classes is not None and str(inputs.classes) not in ORDERS:
        return read_classes(inputs.classes)
    if found is None or _names_its_classes(inputs):
        return None
    return _ordered(found.class_names, inputs)


def are_said(inputs: NetworkInputs) -> bool:
    """Whether the options say the classes: a file of names, the model, or a data set."""
    named = inputs.classes is not None and str(inputs.classes) not in ORDERS
    return named or inputs.data is not None or _names_its_classes(inputs)


def _ordered(names: Sequence[str], inputs: NetworkInputs) -> Sequence[str]:
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
            f"the classes of --data {inputs.data} can be ordered in two ways: output {at} of "
            f"the network is {names[at]} in alphabetical order (as torchvision uses), "
            f"{by_number[at]} in numerical order; add --classes alphabetical or --classes "
            "numerical, as the network was trained"
        )
    return names


def _names_its_classes(inputs: NetworkInputs) -> bool:
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
        return takes_card(inputs.model, inputs.weights)
    return inputs.model.endswith(".safetensors") or Path(inputs.model).is_dir()
