"""A network from what the user calls it: ``timm:NAME``, ``hf:DIR``, ``path/to/file.py:factory``.

Nothing here downloads: networks are built with random weights, and weights come from files.
"""

import difflib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stakes.errors import InputError, check_seed, first_line, quoted, shortened, some
from stakes.models import hf
from stakes.models.libraries import (
    TRANSFORM_INPUT,
    of_timm,
    of_torchvision,
    shown,
    split_arguments,
)
from stakes.models.networks import MODELS
from stakes.models.offline import offline
from stakes.models.own_code import beside, run_file, theirs
from stakes.models.transforms import Unavailable
from stakes.preprocessing import Preprocessing, Reader, Size, one_or_both, sides
from stakes.texts import expanded

RANDOM = "random"
"""In place of a weight file: a network that has learned nothing."""
FORMS = "timm:NAME, torchvision:NAME, hf:FOLDER, stakes:NAME or path/to/file.py:factory"


@dataclass(frozen=True)
class Built:
    """A network with random weights and the images it is made for."""

    spec: str
    network: nn.Module
    recipe: str  #: a Python expression that makes the same network without stakes
    input_size: int | Size  #: side of the images the network is shown, or (height, width), pixels
    mean: tuple[float, ...] = (0.0,)  #: per channel, of images in [0, 1]
    std: tuple[float, ...] = (1.0,)
    class_names: tuple[str, ...] | None = None
    preprocessor: str | None = None  #: text of a transformers folder's preprocessor_config.json
    weights: Path | None = None  #: weights that belong to the spec
    #: what makes the network's input of an image file; None for the largest centred square
    preprocessing: Reader | None = None


def build(
    spec: str,
    *,
    num_classes: int | None = None,
    input_size: int | Size | None = None,
    weights: Path | None = None,
    seed: int = 0,
) -> Built:
    """Build the network that ``spec`` names, with random weights drawn from ``seed``.

    The global random state is left as it was. ``num_classes`` and ``input_size`` default to what
    the network has of its own; code in the user's own file is run. ``weights`` is the file that
    they will come from, whose name says with torchvision which preprocessing they want.

    Raises:
        InputError: unknown form or name, missing file, or a factory that fails.

    >>> build("stakes:digits_cnn", num_classes=3).input_size
    16
    """
    seed = check_seed(seed)
    kind, _, rest = spec.partition(":")
    builder = BUILDERS.get(kind)
    if builder is None:
        if ".py:" not in spec:
            raise InputError(f"unknown model {spec!r}; give {FORMS}, or the folder of a saved one")
        builder, rest = _own, spec
    if not rest:
        raise InputError(f"{spec!r} names no model; give {FORMS}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        size = None if input_size is None else sides(input_size)
        built = builder(rest, num_classes, size, weights)
    if input_size is not None:
        built = replace(built, input_size=input_size)
    height, width = sides(built.input_size)
    if built.preprocessing is None and height != width:
        built = replace(built, preprocessing=Preprocessing((height, width)))
    return built


def fit(built: Built, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """The network of ``built`` with the weights of ``state``.

    Raises:
        InputError: keys are missing, unexpected or of another shape (the first few are named).
    """
    if built.spec.startswith("hf:"):
        return hf.load(built.network, state, source)
    own = built.network.state_dict()
    tensors = {name: value for name, value in own.items() if isinstance(value, Tensor)}
    missing = [
        name for name in tensors if name not in state and not name.endswith("num_batches_tracked")
    ]
    faults = [
        (missing, "missing"),
        ([name for name in state if name not in own], "unexpected"),
        (
            [
                f"{name}: {tuple(state[name].shape)}, not {tuple(value.shape)}"
                for name, value in tensors.items()
                if name in state and state[name].shape != value.shape
            ],
            "of another shape",
        ),
    ]
    found = [f"{len(names)} keys {word} ({some(names)})" for names, word in faults if names]
    if found:
        raise InputError(
            f"{source} does not fit {built.spec}: {'; '.join(found)}; check that --model, its "
            "arguments and the classes are those it was trained with"
        )
    versioned: Any = OrderedDict(state)  # MNASNet refuses weights that do not say their version
    versioned._metadata = {"": getattr(own, "_metadata", {}).get("", {})}
    built.network.load_state_dict(versioned)
    return built.network


def _timm(text: str, num_classes: int | None, size: Size | None, weights: Path | None) -> Built:
    import timm

    name, given = split_arguments(text)
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}{_nearest(name, timm.list_models())}")
    arguments = given | ({} if num_classes is None else {"num_classes": num_classes})
    try:
        settings = timm.get_pretrained_cfg(name)
        if size is not None and settings is not None and settings.fixed_input_size:
            arguments["img_size"] = one_or_both(size)
        with offline():
            network: Any = timm.create_model(name, pretrained=False, **arguments)
    except Exception as error:  # wrong tags and sizes raise nearly anything
        raise InputError(
            f"timm cannot make {text!r}: {first_line(error)}; check its arguments"
        ) from error
    preprocessing, mean, std = of_timm(network, size, given.get("in_chans") == 1)
    return Built(
        f"timm:{name}{shown(given)}",
        network,
        f"timm.create_model({_call(name, arguments)})",
        one_or_both(preprocessing.size),
        mean,
        std,
        preprocessing=preprocessing,
    )


def _torchvision(
    text: str, num_classes: int | None, size: Size | None, weights: Path | None
) -> Built:
    from torchvision import models

    name, given = split_arguments(text)
    known = models.list_models(module=models)
    if name not in known:
        raise InputError(f"torchvision has no classifier {name!r}{_nearest(name, known)}")
    tag = given.pop("weights", None)
    preprocessing, mean, std = of_torchvision(name, tag, weights, size)
    arguments = given | ({} if num_classes is None else {"num_classes": num_classes})
    if name in TRANSFORM_INPUT:
        arguments = {"transform_input": True, "init_weights": False} | arguments
    if size is not None and name.startswith("vit_"):
        arguments["image_size"] = size[0]
    try:
        network = models.get_model(name, weights=None, **arguments)
    except Exception as error:  # wrong sizes raise nearly anything
        raise InputError(
            f"torchvision cannot make {text!r}: {first_line(error)}; check its arguments"
        ) from error
    return Built(
        f"torchvision:{name}{shown(given if tag is None else given | {'weights': tag})}",
        network,
        f"torchvision.models.get_model({_call(name, arguments)})",
        one_or_both(preprocessing.size),
        mean,
        std,
        preprocessing=preprocessing,
    )


def _hf(name: str, num_classes: int | None, size: Size | None, weights: Path | None) -> Built:
    folder = expanded(name).resolve()
    network = hf.make(folder, num_classes)
    file = folder / hf.PREPROCESSOR
    built = Built(
        f"hf:{folder}",
        network,
        'transformers.AutoModelForImageClassification.from_pretrained("FOLDER")',
        hf.image_size(network),
        class_names=hf.class_names(network),
        weights=hf.weight_file(folder) if weights is None else weights,
    )
    if not file.is_file():
        return built
    read = hf.preprocessing(folder, size or sides(built.input_size))
    made_for = read.size or sides(built.input_size)
    advice = (
        f"{file} gives {made_for[0]} x {made_for[1]} pixels, another size than the input size that "
        "was asked for; choose how images are read, such as --resize crop"
    )
    fits = size in (None, made_for)
    return replace(
        built,
        input_size=one_or_both(made_for),
        mean=read.mean,
        std=read.std,
        preprocessor=file.read_text(encoding="utf-8"),
        preprocessing=read if fits else Unavailable(read.words, read.held, advice),
    )


def _stakes(name: str, num_classes: int | None, size: Size | None, weights: Path | None) -> Built:
    if name not in MODELS:
        raise InputError(f"stakes has no model {name!r}; it has {', '.join(sorted(MODELS))}")
    classes = 10 if num_classes is None else num_classes
    network = MODELS[name](classes)
    recipe = f"stakes.models.networks.MODELS[{name!r}]({classes})"
    return Built(f"stakes:{name}", network, recipe, int(network.__getattribute__("input_size")))


def _own(spec: str, num_classes: int | None, size: Size | None, weights: Path | None) -> Built:
    """Run the user's own file and call the factory in it.

    ``input_size`` (a side, or height and width), ``mean`` and ``std`` are plain numbers on the
    network or else in the file;
    a network with a tensor of such a name is taken to normalise by itself.
    """
    file, _, name = spec.rpartition(":")
    path = expanded(file).resolve()
    module = run_file(path)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise InputError(
            f"{path} has no function or class {name!r} that makes a network; name one that exists"
        )
    arguments = {}
    if num_classes is not None and _takes(factory, "num_classes"):
        arguments["num_classes"] = num_classes
    _check_callable(factory, arguments, f"{name} in {path}")
    with theirs(f"{name} in {path}"), beside(path):
        network = factory(**arguments)
    if not isinstance(network, nn.Module):
        raise InputError(
            f"{name} in {path} returned a {type(network).__name__}, not a network; "
            "let it return a torch.nn.Module"
        )

    def setting(key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        found = getattr(network, key, None)
        if found is None or isinstance(found, Tensor | nn.Module):
            found = getattr(module, key, default)
        return _numbers(found, f"{key} of {spec}")

    shown_at = tuple(int(side) for side in setting("input_size", (32.0,)))
    keywords = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return Built(
        f"{path}:{name}",
        network,
        f"{name}({keywords})",  # from that file
        one_or_both((shown_at[0], shown_at[-1])),
        setting("mean", (0.0,)),
        setting("std", (1.0,)),
    )


#: The part of a spec before its first colon -> what builds the network.
BUILDERS: dict[str, Callable[[str, int | None, Size | None, Path | None], Built]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "hf": _hf,
    "stakes": _stakes,
}


def _takes(function: Any, argument: str) -> bool:
    try:
        return argument in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in callables do not tell
        return False


def _check_callable(factory: Any, arguments: Mapping[str, Any], what: str) -> None:
    """Refuse, with an InputError, a factory that needs other arguments."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some built-in callables do not tell
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InputError(
            f"{what} takes {shortened(signature)}, but must be callable without arguments "
            "(num_classes may be one): give each argument a default"
        ) from error


def _numbers(value: Any, what: str) -> tuple[float, ...]:
    try:
        return tuple(float(v) for v in (value if isinstance(value, Iterable) else (value,)))
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is {quoted(value)}, not numbers; give such as 0.5") from error


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 3)
    return f"; did you mean {', '.join(near)}?" if near else "; check the name"


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    return ", ".join([f'"{name}"', *(f"{key}={value!r}" for key, value in arguments.items())])
