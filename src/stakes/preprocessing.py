"""From an image file to the pixels a network is shown, up to the normalisation.

A *reader* is any callable from an opened PIL image to those pixels: uint8, or float32 in [0, 1],
(3, h, w). :class:`Preprocessing` is the reader that says what it does in a few fields, which a
card can hold; normalisation is the classifier's own.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, Self, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from stakes.errors import InputError

Size = tuple[int, int]
"""(height, width) in pixels."""
Resize = Literal["crop", "squash", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
Opening = Literal["stakes", "upright", "plain"]


class Reader(Protocol):
    """What turns an opened image into the pixels that a classifier is shown."""

    def __call__(self, image: Image.Image) -> Tensor:
        """Pixels (3, h, w) of one image: uint8, or float32 in [0, 1]."""
        ...

    def describe(self) -> str:
        """What is done, in words for a report."""
        ...

    def card(self) -> dict[str, Any]:
        """What a card says of it."""
        ...


@dataclass(frozen=True)
class Preprocessing:
    """Resize and crop, as evaluation pipelines of this field do; Pillow's filters throughout.

    The image is scaled to ``scaled`` by one of three rules, then its centre of ``size`` is taken:

    - ``crop``: shape kept, until it just covers ``scaled`` (torchvision's and timm's ``Resize``);
    - ``squash``: to exactly ``scaled``, whatever its shape;
    - ``pad``: shape kept, until it just fits into ``scaled``; the rest is filled with ``fill``.

    Attributes:
        size: (height, width) of what the network is shown.
        resize: the rule.
        scaled: (height, width) before the centre is taken; default ``size``.
        interpolation: Pillow's filter, antialiased (but ``nearest``).
        opening: how a file becomes 8-bit pixels. ``plain``: Pillow's conversion and nothing else,
            so the EXIF orientation is ignored and 16-bit grey is clipped (the data sets of timm
            and torchvision). ``upright``: EXIF orientation first (transformers). ``stakes``: that,
            and 16-bit grey keeps its upper half.
        grey: whether the network is shown grey, as Pillow weighs the colours.
        fill: colour of what is padded, 8 bits a channel.
        source: who says so.

    Raises:
        InputError: a field has an impossible value.

    >>> read = Preprocessing((4, 4), scaled=(5, 5), interpolation="bilinear")
    >>> read(Image.new("RGB", (20, 10))).shape
    torch.Size([3, 4, 4])
    >>> read.describe()
    'short side scaled to 5 pixels (bilinear), central 4 x 4 pixels taken'
    """

    size: Size
    resize: Resize = "crop"
    scaled: Size | None = None
    interpolation: Interpolation = "bicubic"
    opening: Opening = "stakes"
    grey: bool = False
    fill: tuple[int, int, int] = (0, 0, 0)
    source: str = "as chosen"

    def __post_init__(self) -> None:
        for name, kind in (
            ("resize", Resize), ("interpolation", Interpolation), ("opening", Opening)
        ):  # fmt: skip
            if (value := getattr(self, name)) not in get_args(kind):
                raise InputError(f"{name} is {value!r}; give {', '.join(get_args(kind))}")
        for name, numbers, least in (
            ("size", self.size, 1), ("scaled", self.before_crop, 1), ("fill", self.fill, 0)
        ):  # fmt: skip
            whole = all(type(n) is int and n >= least for n in numbers)
            if len(numbers) != (3 if name == "fill" else 2) or not whole:
                raise InputError(
                    f"preprocessing: {name} is {numbers}; give whole numbers of pixels"
                )

    @property
    def before_crop(self) -> Size:
        """(height, width) before the centre is taken."""
        return self.size if self.scaled is None else self.scaled

    def __call__(self, image: Image.Image) -> Tensor:
        """Pixels of an opened image: uint8 (3, h, w), three times the same where grey."""
        from torchvision.transforms import functional as F  # here: as slow to import as torch

        image = converted(image, "L" if self.grey else "RGB", self.opening)
        image = self._scaled(image)
        if self.resize == "pad":
            image = self._padded(image)
        pixels: Tensor = F.pil_to_tensor(F.center_crop(image, list(self.size)))
        return pixels.expand(3, -1, -1)

    def _scaled(self, image: Image.Image) -> Image.Image:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as F

        height, width = self.before_crop
        mode = InterpolationMode(self.interpolation)
        if self.resize == "squash":
            wanted = [height, width]
        elif self.resize == "crop" and height == width:
            wanted = [height]  # of the short side; the long one is rounded down
        else:
            ratios = image.height / height, image.width / width
            ratio = max(ratios) if self.resize == "pad" else min(ratios)
            wanted = [max(1, round(side / ratio)) for side in (image.height, image.width)]
        return F.resize(image, wanted, mode)  # type: ignore[no-any-return]

    def _padded(self, image: Image.Image) -> Image.Image:
        from torchvision.transforms import functional as F

        down, right = (max(0, want - has) for want, has in zip(
            self.size, (image.height, image.width), strict=True
        ))  # fmt: skip
        edges = [right // 2, down // 2, (right + 1) // 2, (down + 1) // 2]
        fill = self.fill[0] if image.mode == "L" else self.fill
        return F.pad(image, edges, fill=fill)  # type: ignore[no-any-return]

    def describe(self) -> str:
        """What is done, in words for a report."""
        (height, width), (h, w) = self.before_crop, self.size
        how = {
            "crop": f"short side scaled to {height} pixels"
            if height == width
            else f"scaled until {height} x {width} pixels are covered",
            "squash": f"squashed to {height} x {width} pixels",
            "pad": f"scaled to fit into {height} x {width} pixels",
        }[self.resize]
        padded = " and padded" if self.resize == "pad" else ""
        cut = "" if self.resize == "squash" and (h, w) == (height, width) else (
            f", central {h} x {w} pixels taken{padded}"
        )  # fmt: skip
        return f"{how} ({self.interpolation}){cut}{', in grey' if self.grey else ''}"

    def card(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_card(cls, card: Mapping[str, Any], where: str) -> Self:
        """The preprocessing of which a card holds the fields.

        Raises:
            InputError: a field that is not known, or has an impossible value.
        """
        fields: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in card.items()
        }
        try:
            return cls(**fields)
        except (TypeError, InputError) as error:
            raise InputError(
                f"{where}: preprocessing cannot be used ({error}); save the classifier again"
            ) from error


def choose(
    base: Reader | None,
    size: Size,
    *,
    resize: Resize | Literal["square"] | None = None,
    crop_share: float | None = None,
    interpolation: Interpolation | None = None,
) -> Reader | None:
    """What the user's own words make of a classifier's preprocessing.

    Args:
        base: the classifier's own, None for the largest centred square.
        size: (height, width) of what the network is shown.
        resize: a rule of :class:`Preprocessing`, or ``square`` for what None stands for.
        crop_share: share of each scaled side that is taken, in (0, 1]; default 1, or what ``base``
            has where it follows the same rule.
        interpolation: default that of ``base``, else bicubic.

    Raises:
        InputError: a share outside (0, 1], or words that contradict each other.

    >>> choose(None, (224, 224), resize="crop", crop_share=0.875).before_crop
    (256, 256)
    """
    if resize is None and crop_share is None and interpolation is None:
        return base
    if resize == "square":
        if crop_share is not None or interpolation is not None:
            raise InputError(
                "--resize square takes neither --crop-share nor --interpolation: leave them out"
            )
        return None
    if crop_share is not None and not 0 < crop_share <= 1:
        raise InputError(f"--crop-share {crop_share}: give a share above 0 and at most 1")
    own = base if isinstance(base, Preprocessing) else None
    start = own or Preprocessing(size, opening="stakes" if base is None else "upright")
    changes: dict[str, Any] = {"source": "as chosen", "size": size}
    if crop_share is not None:
        # The nudge keeps 224 / .875 at 256, whatever the last bit of the share.
        changes["scaled"] = tuple(int(side / crop_share + 1e-6) for side in size)
    elif resize is not None and resize != start.resize:
        changes["scaled"] = size
    if resize is not None and resize != start.resize:
        changes |= {"resize": resize, "fill": (0, 0, 0)}
    if interpolation is not None:
        changes["interpolation"] = interpolation
    return replace(start, **changes)


def in_words(reader: Reader | None) -> str:
    """What is done to an image file, in words; None is the largest centred square."""
    if reader is None:
        return "largest centred square scaled (bicubic)"
    return reader.describe()


def converted(image: Image.Image, mode: str, opening: Opening = "stakes") -> Image.Image:
    """An opened image as ``RGB`` or ``L`` with 8 bits a channel (see :class:`Preprocessing`).

    Alpha is dropped without blending and colour profiles are ignored; of several frames the first
    is taken.

    Raises:
        ValueError: by ``stakes``, pixels with more than 16 bits.
    """
    if opening != "plain":
        image = ImageOps.exif_transpose(image)
    if opening == "stakes" and image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("32-bit pixels; save it with 8 or 16 bits")
        image = Image.fromarray((grey >> 8).astype(np.uint8))
    elif opening == "stakes" and image.mode == "F":
        raise ValueError("floating-point pixels; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # otherwise Pillow warns about every such palette
    return image.convert(mode)


def sides(size: int | Size) -> Size:
    """(height, width) from one side for both, or from both.

    >>> sides(32), sides((48, 64))
    ((32, 32), (48, 64))
    """
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def one_or_both(size: Size) -> int | Size:
    """One side of a square, both of anything else: the other way from :func:`sides`."""
    return size[0] if size[0] == size[1] else size


def unit_range(pixels: Tensor) -> Tensor:
    """Pixels of a reader as float32 in [0, 1]."""
    if pixels.dtype == torch.uint8:
        return pixels.float().div_(255)
    return pixels
