"""What timm and torchvision say of a network: the evaluation preprocessing, the arguments."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stakes.errors import InputError
from stakes.preprocessing import Preprocessing, Size

#: Arguments that would fetch or unpickle something, or that have an option of their own.
REFUSED = {
    "num_classes": "give --classes",
    "img_size": "give --input-size",
    "image_size": "give --input-size",
    "pretrained": "give --weights",
    "checkpoint_path": "give --weights",
    "weights_backbone": "give --weights",
}
#: torchvision's networks whose public weights want the normalisation of the first networks they
#: were trained with, which they then do themselves; without weights the library leaves it out.
TRANSFORM_INPUT = ("inception_v3", "googlenet")


def split_arguments(text: str) -> tuple[str, dict[str, Any]]:
    """A network's name and arguments: Python's plain values, or else words.

    Raises:
        InputError: something else than ``name=value``, or an argument that has its own option.

    >>> split_arguments("resnet18,in_chans=1,act_layer=gelu")
    ('resnet18', {'in_chans': 1, 'act_layer': 'gelu'})
    """
    name, *parts = text.split(",")
    arguments: dict[str, Any] = {}
    for part in parts:
        key, sign, value = part.partition("=")
        if not sign or not re.fullmatch(r"[a-z]\w*", key):
            raise InputError(f"{text}: {part!r} is not an argument; write NAME,argument=value")
        if key in REFUSED or key.startswith(("pretrained", "cache")):
            raise InputError(
                f"{text}: {key} cannot be set here; {REFUSED.get(key, 'leave it out')}"
            )
        try:
            arguments[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            arguments[key] = {"true": True, "false": False}.get(value.lower(), value)
    return name, arguments


def of_timm(network: Any, size: Size | None, grey: bool) -> tuple[Preprocessing, Any, Any]:
    """The evaluation preprocessing, mean and std of a timm network, as its data config says.

    A network with one input channel is shown grey and gets the mean of each over the channels.

    Raises:
        InputError: it is no preprocessing of this kind.
    """
    from timm.data.config import resolve_model_data_config

    wanted = {} if size is None else {"input_size": (3, *size)}
    resolve: Any = resolve_model_data_config
    config = resolve(network, wanted)
    height, width = (int(side) for side in config["input_size"][1:])
    share, mode = config["crop_pct"] or 0.875, config["crop_mode"] or "center"
    rules = {"center": "crop", "squash": "squash", "border": "pad"}
    mean, std = tuple(config["mean"]), tuple(config["std"])
    made = Preprocessing.from_card(
        {
            "size": (height, width),
            "resize": rules.get(mode, mode),
            "scaled": (int(height / share), int(width / share)),
            "interpolation": config["interpolation"],
            "opening": "plain",
            "grey": grey,
            "fill": tuple(round(255 * v) for v in (mean * 3)[:3]),
            "source": f"timm {network.pretrained_cfg.get('architecture', '')}".strip(),
        },
        "timm's data config",
    )
    if grey:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    return made, mean, std


def of_torchvision(
    name: str, tag: str | None, weights: Path | None, size: Size | None
) -> tuple[Preprocessing, Any, Any]:
    """The evaluation preprocessing, mean and std of torchvision's weights of a network.

    Of several weights those called ``tag`` count; else those whose published file has the name of
    the file ``weights``; else the library's default.

    Raises:
        InputError: no weights of this name.
    """
    from torchvision import models

    known: Any = models.get_model_weights(name)
    if tag is not None and tag not in known.__members__:
        raise InputError(
            f"torchvision:{name} has no weights {tag!r}; it has {', '.join(known.__members__)}"
        )
    published = [w for w in known if weights is not None and w.url.endswith(f"/{weights.name}")]
    chosen = known[tag] if tag is not None else next(iter(published), known.DEFAULT)
    preset = chosen.transforms()
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    own = (crop, crop) if size is None else size
    made = Preprocessing(
        own,
        scaled=(round(own[0] * resize / crop), round(own[1] * resize / crop)),
        interpolation=preset.interpolation.value,
        opening="plain",
        source=f"torchvision {type(chosen).__name__}.{chosen.name}",
    )
    return made, tuple(preset.mean), tuple(preset.std)


def shown(arguments: Mapping[str, Any]) -> str:
    """Arguments as they stand in a spec.

    >>> shown({"in_chans": 1, "act_layer": "gelu"})
    ',in_chans=1,act_layer=gelu'
    """
    return "".join(f",{key}={value}" for key, value in arguments.items())
