"""From a user's description of a network to the network with its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stakes.errors import InputError, quoted
from stakes.files import tensor_digest
from stakes.models.cards import card_preprocessing, is_own, read_card, saved_file, takes_card
from stakes.models.checks import agreed_size, check_order, check_size, wanted_classes
from stakes.models.heads import find_head
from stakes.models.lookup import Lookup
from stakes.models.projector import Projector
from stakes.models.saving import PARTS
from stakes.models.specs import Built, build, fit
from stakes.models.transforms import Transform
from stakes.models.weights import read_safetensors, read_weights
from stakes.preprocessing import Reader, Size


@dataclass(frozen=True)
class Wanted:
    """A user's description of a network: arguments of ``Classifier.load``.

    None leaves a value to the network, its weights or its card; ``untrained`` asks for random
    weights.
    """

    spec: str | Path
    weights: Path | None = None
    untrained: bool = False
    weights_key: str | None = None
    num_classes: int | None = None
    class_names: Sequence[str] | None = None
    input_size: int | Size | None = None
    mean: Sequence[float] | float | None = None
    std: Sequence[float] | float | None = None
    preprocessing: Reader | None = None
    seed: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the classifier around the network."""
        return {"class_names": self.class_names, "mean": self.mean, "std": self.std}


@dataclass(frozen=True)
class Loaded:
    """A network with its weights, and the settings of the classifier around it.

    Attributes:
        built: the network.
        spec: what it is.
        weights: where its weights came from.
        settings: class names, mean and std; None for the network's own.
        parts: the state of each part that the plain network lacks.
        file: that they were saved in.
    """

    built: Built
    spec: str
    weights: str
    settings: Mapping[str, Any]
    parts: Mapping[str, dict[str, Tensor]] = field(default_factory=dict)
    file: Path | None = None


def load_network(wanted: Wanted) -> Loaded:
    """Build the network and give it its weights.

    Raises:
        InputError: see :meth:`stakes.models.classifier.Classifier.load`.
    """
    spec, given = wanted.spec, wanted.preprocessing
    if isinstance(spec, nn.Module):
        raise InputError("a network in memory is given to Classifier.wrap, not to load")
    if not isinstance(spec, str | Path):
        raise InputError(f"unknown model {quoted(spec)}; give a text such as timm:resnet18")
    if isinstance(given, Transform):
        size = agreed_size(given, wanted.input_size, wanted.mean, wanted.std)
        wanted = replace(wanted, mean=given.mean, std=given.std, input_size=size)
    if wanted.input_size is not None:
        check_size(wanted.input_size)
    classes = wanted_classes(wanted.num_classes, wanted.class_names)
    saved = saved_file(spec)
    if saved is not None:
        if wanted.weights is not None:
            raise InputError(f"{spec} is a saved classifier with its own weights: leave out others")
        return _saved(saved, wanted, classes)
    if wanted.weights is not None and takes_card(str(spec), wanted.weights):
        return _saved(wanted.weights, wanted, classes, str(spec) if is_own(str(spec)) else None)
    return _named(wanted, classes)


def _named(wanted: Wanted, classes: int | None) -> Loaded:
    """A network by its spec, with weights from a file, its library's folder, or at random."""
    built = _made(wanted, classes)
    if wanted.weights is None:
        check_order(built.class_names, wanted.class_names, built.spec)
    source = built.weights if wanted.weights is None else wanted.weights
    library = str(wanted.spec).startswith(("timm:", "torchvision:"))
    if source is None and library and not wanted.untrained:
        raise InputError(
            f"{wanted.spec} names an architecture, whose weights would be random: give "
            'weights=FILE, or weights="random" to try what an untrained network does'
        )
    if source is not None:
        state = read_weights(source, built.network.state_dict(), wanted.weights_key)
        others = _classes_in(state, built, str(source), classes)
        if others is not None:
            built = _made(wanted, others)
        built = _fitted(built, state, str(source))
    origin = f"random (seed {wanted.seed})" if source is None else str(source)
    return Loaded(built, built.spec, origin, wanted.settings)


def _made(wanted: Wanted, classes: int | None) -> Built:
    built = build(
        str(wanted.spec),
        num_classes=classes,
        input_size=wanted.input_size,
        weights=wanted.weights,
        seed=wanted.seed,
    )
    own = built.preprocessing if wanted.preprocessing is None else wanted.preprocessing
    return replace(built, preprocessing=own)


def _saved(file: Path, wanted: Wanted, classes: int | None, code: str | None = None) -> Loaded:
    """A saved classifier; what the user says wins over its card.

    ``code`` is the spec of own code that makes the network, where the user named it.
    """
    card = read_card(file.with_name("model.json"), named=code is not None)
    if classes not in (None, card["num_classes"]):
        raise InputError(
            f"{file} has {card['num_classes']} classes, not {classes}; "
            "give the names of all of them"
        )
    check_order(card["class_names"], wanted.class_names, str(file.with_name("model.json")))
    state = read_safetensors(file)
    if tensor_digest(state) != card["digest"]:
        raise InputError(
            f"{file} is not the file its card model.json describes (another digest); "
            "take both from the same run"
        )
    spec = card["spec"]
    built = build(
        code or (f"hf:{file.parent}" if spec.startswith("hf:") else spec),
        num_classes=card["num_classes"],
        input_size=wanted.input_size or card["input_size"],
    )
    read = wanted.preprocessing
    if read is None:
        read = card_preprocessing(card, built.preprocessing, file, wanted.input_size)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS if card.get(part) is not None}
    own = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part in parts:
            parts[part][rest] = tensor
        else:
            own[name] = tensor
    settings = {key: card[key] if v is None else v for key, v in wanted.settings.items()}
    built = _fitted(replace(built, preprocessing=read), own, str(file))
    origin = f"{file}, made from weights {card['weights']}"
    return Loaded(built, spec if code is None else built.spec, origin, settings, parts, file)


def parts_of(loaded: Loaded, feature_width: int) -> dict[str, nn.Module]:
    """The parts that the plain network lacks, by name.

    Raises:
        InputError: one does not fit features of this width.
    """
    made: dict[str, nn.Module] = {}
    for part, state in loaded.parts.items():
        try:
            if part == "lookup":
                made[part] = Lookup(state["features"], state["answers"])
            else:
                made[part] = Projector.like(feature_width, state)
        except (KeyError, RuntimeError) as error:
            raise InputError(
                f"the {part} in {loaded.file} does not fit the network; take the card and the "
                "weights from the same run"
            ) from error
    return made


def _fitted(built: Built, state: Mapping[str, Tensor], source: str) -> Built:
    return replace(built, network=fit(built, state, source))


def _classes_in(
    state: Mapping[str, Tensor], built: Built, source: str, wanted: int | None
) -> int | None:
    """How many classes the weights are for, where the network has to be built again for them."""
    head = find_head(built.network, input_size=built.input_size, name=built.spec)
    weight = state.get(f"{head}.weight")
    own = built.network.get_parameter(f"{head}.weight")
    if weight is None or weight.ndim != own.ndim:
        return None  # fit() will say what does not fit
    if len(weight) == len(own):
        return None
    if wanted is not None:
        raise InputError(
            f"{source} has {len(weight)} classes, not {wanted}; give the names of all of them"
        )
    return len(weight)
