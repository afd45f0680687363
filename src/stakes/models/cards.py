"""The card ``model.json`` beside saved weights: what they are and how to read them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stakes.errors import InputError
from stakes.models.hf import read_json
from stakes.models.transforms import unavailable
from stakes.preprocessing import Preprocessing, Reader, Size, sides
from stakes.texts import expanded

#: Version of the card; an older stakes refuses a newer card.
CARD_FORMAT = 1
MOST_CLASSES = 10**6
#: Begins the spec of a network that was given as a module, not by a name.
IN_MEMORY = "memory:"

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "spec": str,
    "weights": str,
    "digest": str,
    "num_classes": int,
    "class_names": list,
    "input_size": (int, list),
    "mean": list,
    "std": list,
    "projector": (dict, type(None)),
}
# Cards of older versions have no field "preprocessing": theirs was the largest centred square.


def saved_file(spec: str | Path) -> Path | None:
    """The weight file, if ``spec`` is a saved classifier's folder or its file, else None.

    Raises:
        InputError: a folder or weight file without a card.
    """
    if not str(spec).strip():
        return None
    path = expanded(spec)
    file = path / "model.safetensors" if path.is_dir() else path
    if file.suffix != ".safetensors":
        return None
    if not file.with_name("model.json").is_file():
        raise InputError(
            f"{file} has no card model.json beside it; say what network it is, for example "
            f"timm:resnet18 with weights {file} (for a transformers folder: hf:{path})"
        )
    return file


def is_own(spec: str) -> bool:
    """Whether a spec names code of the user's own."""
    return ".py:" in spec  # as build() has it: a card of a spec that it would run is refused


def made_from(weights: str | Path) -> str | None:
    """The spec in the card beside a weight file; None without a card."""
    file = expanded(weights)
    card = file.parent / "model.json"
    if file.suffix != ".safetensors" or not card.is_file():
        return None
    spec = read_json(card).get("spec")
    return spec if isinstance(spec, str) else None


def takes_card(spec: str, weights: str | Path) -> bool:
    """Whether the card beside ``weights`` is of the network that ``spec`` names.

    Where own code lies, and what it is called, may have changed since: the card belongs to the
    weights.
    """
    named = made_from(weights)
    if named is None or not is_own(spec):
        return spec == named
    return is_own(named) or named.startswith(IN_MEMORY)


def read_card(path: Path, *, named: bool = False) -> dict[str, Any]:
    """The fields of a card, checked so that a network can be built from them.

    Args:
        path: the file ``model.json``.
        named: whether the user has named the code that makes the network, whatever the card says.

    Raises:
        InputError: not JSON, a field is missing or of a wrong type, a newer format, or a network
            that the card cannot rebuild.
    """
    card = read_json(path)
    if card.get("format") != CARD_FORMAT:
        raise InputError(
            f"{path} has format {card.get('format')!r}; this version of stakes reads "
            f"{CARD_FORMAT}; install the one that wrote it"
        )
    for name, kind in _FIELDS.items():
        if name not in card or not isinstance(card[name], kind):
            raise InputError(f"{path} has no usable field {name!r}; save the classifier again")
    if not all(isinstance(name, str) for name in card["class_names"]):
        raise InputError(f"{path}: class_names are not all text; save the classifier again")
    if not 1 <= card["num_classes"] <= MOST_CLASSES:
        raise InputError(f"{path} says {card['num_classes']} classes; save the classifier again")
    size = card["input_size"]
    if not isinstance(size, int):
        if len(size) != 2 or not all(isinstance(side, int) for side in size):
            raise InputError(f"{path}: input_size is {size}; it is a side, or height and width")
        card["input_size"] = tuple(size)
    spec = card["spec"]
    if named:
        return card
    if spec.startswith(IN_MEMORY):
        raise InputError(
            f"{path.parent} was saved from a {spec.removeprefix(IN_MEMORY)} in memory; load "
            "model.safetensors into such a network and pass it to Classifier.wrap"
        )
    if is_own(spec):
        raise InputError(
            f"{path.parent} was saved from your own code, which a saved file never runs; if "
            f"you trust {spec}, pass it: --model {spec} --weights "
            f"{path.with_name('model.safetensors')}"
        )
    return card


def held_preprocessing(card: Mapping[str, Any], own: Reader | None, where: str) -> Reader | None:
    """The preprocessing that a card holds; ``own`` is the network's, as its library has it.

    Raises:
        InputError: the card holds none that can be used.
    """
    held = card.get("preprocessing")
    if held is None:
        return None
    if not isinstance(held, dict):
        raise InputError(f"{where}: preprocessing is {held!r}; save the classifier again")
    if "processor" in held:
        return own  # it lies beside, in the transformers folder
    return unavailable(held) if "transform" in held else Preprocessing.from_card(held, where)


def card_preprocessing(
    card: Mapping[str, Any], own: Reader | None, file: Path, input_size: int | Size | None
) -> Reader | None:
    """The preprocessing that a card holds, or, at another size than the card's, the network's own.

    Args:
        card: as :func:`read_card` gives it.
        own: the network's, as its library has it.
        file: the weights beside the card.
        input_size: what the user asks for; None for the card's.
    """
    if input_size is not None and sides(input_size) != sides(card["input_size"]):
        return own
    return held_preprocessing(card, own, str(file.with_name("model.json")))


def delivered_preprocessing(saved: Path, own: Reader | None) -> Reader | None:
    """The preprocessing under which a saved network was scored (see :func:`held_preprocessing`).

    ``saved`` is its folder or weight file; without a card it is ``own``.
    """
    card = (saved if saved.is_dir() else saved.parent) / "model.json"
    return held_preprocessing(read_json(card), own, str(card)) if card.is_file() else own


def delivered_settings(saved: Path) -> dict[str, Any]:
    """Input size, mean and std in the card of a saved network; empty without a card."""
    card = (saved if saved.is_dir() else saved.parent) / "model.json"
    if not card.is_file():
        return {}
    read = read_card(card, named=True)
    return {key: read[key] for key in ("input_size", "mean", "std")}


def without_stakes(spec: str, recipe: str, parts: Sequence[str]) -> str:
    """One line of Python that loads the saved weights into the plain network.

    Args:
        spec: of the network.
        recipe: Python that makes it.
        parts: what is saved with it that it lacks, by the beginning of the names.

    >>> without_stakes("timm:resnet18", 'timm.create_model("resnet18")', [])
    'net = timm.create_model("resnet18"); net.load_state_dict(load_file("model.safetensors"))'
    """
    if spec.startswith("hf:"):
        return f"net = {recipe}"
    state = 'load_file("model.safetensors")'  # safetensors.torch.load_file
    for part in parts:
        state = f'{{k: v for k, v in {state}.items() if not k.startswith("{part}.")}}'
    if spec.startswith("torchvision:mnasnet"):  # asks for a version, which safetensors do not hold
        update = f"state = net.state_dict(); state.update({state})"
        return f"net = {recipe}; {update}; net.load_state_dict(state)"
    return f"net = {recipe}; net.load_state_dict({state})"
