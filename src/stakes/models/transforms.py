"""Preprocessing by code that is not ours: a transform of the user's, a transformers processor.

Such code gives the network's own input, normalised in whatever way. Black and white images are put
through it: what they become are the ends of each channel's range, and between them lie the pixels
in [0, 1] from which a classifier's mean and std make that very input again.
"""

import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from stakes.errors import InputError
from stakes.models.own_code import beside, run_file, theirs
from stakes.preprocessing import Opening, Size, converted
from stakes.texts import expanded

Code = Callable[[Image.Image], Any]
PROBES = ((512, 640), (320, 300))  # (height, width) of the images that are put through first
EIGHT_BITS = 2e-3  # so near to whole numbers of 0 to 255 lie pixels that were whole before


@dataclass(frozen=True, eq=False)
class Transform:
    """The reader that asks other code; made by :func:`transform`.

    Attributes:
        code: from an opened image to the network's input, (3 or 1, h, w).
        words: what a report calls it.
        held: what a card says of it.
        low, high: (3,) the ends of each channel's range in that input.
        mean, std: per channel, make the input of pixels in [0, 1].
        channels: how many it gives, 3 or 1.
        size: (height, width) it gives; None where that depends on the image.
        opening: how an image is opened for it (see Preprocessing); None: as Pillow does.
    """

    code: Code
    words: str
    held: Mapping[str, Any]
    low: Tensor
    high: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int
    size: Size | None
    opening: Opening | None = None
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __call__(self, image: Image.Image) -> Tensor:
        """Pixels (3, h, w) of an opened image: uint8 where they are whole, else float32.

        Values outside the range of black to white, as some filters leave them, are cut off.

        Raises:
            InputError: the code fails, or gives something else or another size than before.
        """
        with self._lock:  # files are decoded in threads, for which such code need not be made
            made = given(self.code, image, self.words, self.opening)
        if self.size is not None and tuple(made.shape[1:]) != self.size:
            raise InputError(
                f"{self.words} gives {_times(made.shape[1:])} pixels, the network takes "
                f"{_times(self.size)}; resize in it, or give --input-size"
            )
        made = made.expand(3, -1, -1)
        levels = (made - self.low[:, None, None]) / (self.high - self.low)[:, None, None] * 255
        levels = levels.clamp(0, 255)
        whole = levels.round()
        if (levels - whole).abs().max() < EIGHT_BITS:
            return whole.to(torch.uint8)
        return levels / 255

    def at(self, size: Size) -> Self:
        """The same, required to give this size."""
        return replace(self, size=size)

    def describe(self) -> str:
        """What a report calls it."""
        return self.words

    def card(self) -> dict[str, Any]:
        """What a card says of it: never the code itself."""
        return dict(self.held)

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # nothing in it changes, and other code need not be made to be copied


@dataclass(frozen=True)
class Unavailable:
    """A reader that is only known by name: reading with it says what to do.

    Attributes:
        words: what a report calls it.
        held: what a card says of it.
        advice: the error's words.
    """

    words: str
    held: Mapping[str, Any]
    advice: str

    def __call__(self, image: Image.Image) -> Tensor:
        """Raise an InputError with the advice."""
        raise InputError(self.advice)

    def describe(self) -> str:
        """What a report calls it."""
        return self.words

    def card(self) -> dict[str, Any]:
        """What a card says of it."""
        return dict(self.held)


def transform(
    code: Code,
    words: str = "a transform in memory",
    held: Mapping[str, Any] | None = None,
    opening: Opening | None = None,
) -> Transform:
    """A reader of code that makes a network's whole input, normalisation included.

    Args:
        code: from an opened PIL image, as it lies in the file, to a tensor or array (3, h, w) or
            (1, h, w), the same each time. What it does to pixels may be anything; what it makes of
            black and of white has to be the ends of each channel's range.
        words: what a report calls it.
        held: what a card says of it.
        opening: bring images to RGB first (see :class:`stakes.preprocessing.Preprocessing`).

    Raises:
        InputError: it fails, is random, gives something else, or the same for black and white.

    >>> half = transform(lambda image: torch.full((3, 4, 4), image.getpixel((0, 0))[0] / 127.5 - 1))
    >>> half.mean, half.std, half.size
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (4, 4))
    """
    black, white = (
        given(code, Image.new("RGB", PROBES[0][::-1], (v, v, v)), words, opening)
        .flatten(1)
        .median(dim=1)
        .values.expand(3)
        for v in (0, 255)
    )
    low, high = torch.minimum(black, white), torch.maximum(black, white)
    for channel, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        if not b - a > 1e-6 * max(1.0, abs(a), abs(b)):
            raise InputError(
                f"{words} gives the same output for black and white images (channel "
                f"{channel}), so its normalisation cannot be derived; normalise with fixed "
                "numbers"
            )
    noise = [_noise(*shape) for shape in PROBES]
    first, again, other = (given(code, noise[i], words, opening) for i in (0, 0, 1))
    if not torch.equal(first, again):
        raise InputError(
            f"{words} gives a different result each time; leave out random steps, as a service does"
        )
    height, width = first.shape[1:]
    size = (height, width) if first.shape == other.shape else None
    pairs = [_normalisation(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    mean, std = zip(*pairs, strict=True)
    held = {"transform": words} if held is None else held
    return Transform(code, words, held, low, high, mean, std, len(first), size, opening)


def given(code: Code, image: Image.Image, words: str, opening: Opening | None = None) -> Tensor:
    """The network's input that ``code`` makes of an image, float32 (3, h, w) or (1, h, w).

    Raises:
        InputError: it fails, or gives something else.
    """
    if opening is not None:
        image = converted(image, "RGB", opening)
    with theirs(f"{words}, given an image of mode {image.mode},"):
        made = code(image)
        made = torch.from_numpy(np.array(made)) if isinstance(made, np.ndarray) else made
    if not isinstance(made, Tensor):
        raise InputError(
            f"{words} gives a {type(made).__name__}, not a tensor (3, h, w); end with ToTensor()"
        )
    if made.ndim != 3 or made.shape[0] not in (1, 3):
        what = 'begin with image.convert("RGB")'
        if made.ndim == 4:
            what = "give one image, without an axis for the batch"
        elif made.ndim == 3 and made.shape[2] in (1, 3):
            what = "put the channels first, as permute(2, 0, 1) does"
        raise InputError(
            f"{words} gives a tensor of shape {tuple(made.shape)} for an image of mode "
            f"{image.mode}; it must be (3, h, w) or (1, h, w): {what}"
        )
    made = made.detach().cpu().float()
    if not bool(made.isfinite().all()):
        raise InputError(
            f"{words} gives values that are not finite; check it for a division by zero"
        )
    return made


def own_transform(text: str) -> Transform:
    """The reader that ``path/to/file.py:factory`` names; the file is run.

    What the name stands for is a transform itself (an object, or a function of one image), or a
    function without arguments that makes one.

    Raises:
        InputError: no such file or name, or what :func:`transform` refuses.
    """
    file, _, name = text.rpartition(":")
    if not file.endswith(".py"):
        raise InputError(f"--transform {text}: give path/to/file.py:factory")
    path = expanded(file).resolve()
    code = getattr(run_file(path, "--transform"), name, None)
    if not callable(code):
        raise InputError(
            f"{path} has no function or class {name!r} that makes a transform; name one that exists"
        )
    if _takes_nothing(code):
        with theirs(f"{name} in {path}"), beside(path):
            code = code()
        if not callable(code):
            raise InputError(
                f"{name} in {path} returned a {type(code).__name__}, not a transform; "
                "let it return a function of one image"
            )
    words = f"{path}:{name}"
    return transform(code, words, {"transform": words})


def unavailable(held: Mapping[str, Any]) -> Unavailable:
    """The reader of a card that names code, which a card does not start."""
    name = held["transform"]
    advice = (
        f"this network was unlearned with --transform {name}, code that a saved file does not "
        "start: if you trust it, add the same --transform (--resize would read other pixels)"
    )
    return Unavailable(str(name), held, advice)


def _takes_nothing(code: Any) -> bool:
    """Whether to call it is to make a transform, and not to transform an image."""
    if isinstance(code, nn.Module):
        return False
    try:
        parameters = inspect.signature(code).parameters.values()
    except (TypeError, ValueError):  # some built-in callables do not tell
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return not any(p.default is p.empty and p.kind in positional for p in parameters)


def _normalisation(low: float, high: float) -> tuple[float, float]:
    """Mean and std that map 0 to ``low`` and 1 to ``high``, in few decimals where these will do."""
    std = 1 / (high - low)
    mean = -low * std
    for decimals in range(2, 8):
        m, s = round(mean, decimals), round(std, decimals)
        if s > 0 and max(abs(-m / s - low), abs((1 - m) / s - high)) < 1e-6 * (high - low):
            return m, s
    return mean, std


def _noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _times(shape: Any) -> str:
    return " x ".join(map(str, shape))
