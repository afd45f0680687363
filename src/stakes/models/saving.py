"""A classifier on disk: its weights, its card, and a transformers network's own files."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor, nn

from stakes.files import tensor_digest, write_bytes, write_text
from stakes.models import hf
from stakes.models.cards import CARD_FORMAT, without_stakes
from stakes.models.checks import per_channel, plain_numbers
from stakes.models.lookup import Lookup
from stakes.preprocessing import Reader, Size

PARTS = ("projector", "lookup")
"""What may be saved with a network that the plain network lacks."""


class Savable(Protocol):
    """What is saved of a :class:`stakes.models.classifier.Classifier`."""

    spec: str
    weights: str
    recipe: str
    class_names: tuple[str, ...]
    input_size: int | Size
    mean: Tensor
    std: Tensor
    stated: tuple[tuple[float, ...], tuple[float, ...]]
    preprocessing: Reader | None
    preprocessor: str | None
    body: nn.Module
    head_name: str
    projector: nn.Module | None
    lookup: Lookup | None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def feature_width(self) -> int:
        """Number of features."""
        ...

    def network(self) -> nn.Module:
        """The plain network."""
        ...

    def network_state(self) -> dict[str, Tensor]:
        """Its state dict."""
        ...


def write(classifier: Savable, folder: Path) -> None:
    """Write ``model.safetensors`` and its card (see :meth:`Classifier.save`)."""
    tensors = {
        name: tensor.cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in saved_state(classifier).items()
    }
    content = safetensors.torch.save(tensors, metadata={"format": "pt"})
    write_bytes(folder / "model.safetensors", content)
    written = card(classifier) | {"digest": tensor_digest(tensors)}
    if classifier.spec.startswith("hf:"):
        stated = [plain_numbers(per_channel(n, "").float()) for n in classifier.stated]
        own = written["mean"], written["std"]
        changed = None if list(own) == stated else own
        texts = hf.files(classifier.body, classifier.class_names, classifier.preprocessor, changed)
        for name, text in texts.items():
            write_text(folder / name, text)
    write_text(folder / "model.json", json.dumps(written, indent=2, ensure_ascii=False) + "\n")


def card(classifier: Savable) -> dict[str, Any]:
    """What ``model.json`` says, but for the digest."""
    read, lookup = classifier.preprocessing, classifier.lookup
    width = classifier.feature_width
    return {
        "format": CARD_FORMAT,
        "stakes": version("stakes"),
        "spec": classifier.spec,
        "weights": classifier.weights,
        "num_classes": classifier.num_classes,
        "class_names": list(classifier.class_names),
        "input_size": classifier.input_size,
        "mean": plain_numbers(classifier.mean),
        "std": plain_numbers(classifier.std),
        "preprocessing": None if read is None else read.card(),
        "head_name": classifier.head_name,
        "feature_width": width,
        "projector": None if classifier.projector is None else {"width": width},
        "lookup": None if lookup is None else {"images": len(lookup.answers)},
        "recipe": without_stakes(classifier.spec, classifier.recipe, _parts(classifier)),
    }


def saved_state(classifier: Savable) -> dict[str, Tensor]:
    """The weights as they are saved: the plain network's, and those of the parts it lacks."""
    state = classifier.network_state()
    if classifier.spec.startswith("hf:"):
        state = hf.hub_names(classifier.network(), state)
    for part in _parts(classifier):
        for name, tensor in getattr(classifier, part).state_dict().items():
            state[f"{part}.{name}"] = tensor.detach()
    return state


def _parts(classifier: Savable) -> list[str]:
    """What is there that the plain network lacks."""
    return [name for name in PARTS if getattr(classifier, name) is not None]
