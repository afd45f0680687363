"""Users' own data, however it is held, as the :class:`Images` that everything here reads."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from stakes.data.decode import check_size
from stakes.data.images import ImageArray, Images
from stakes.errors import InputError
from stakes.preprocessing import converted, unit_range

Labels: TypeAlias = Tensor | NDArray[Any] | Sequence[int]
Data: TypeAlias = Any
"""What :func:`as_images` takes."""

IMAGE_KEYS = ("image", "img", "pixel_values")
LABEL_KEYS = ("label", "labels")
LABELLED = (
    "give labelled images: tensors or numpy arrays with labels, a torch Dataset or a list of "
    "(image, label) pairs or of {'image': ..., 'label': ...}, or load_data(FOLDER).train"
)


def as_images(
    data: Data,
    labels: Labels | None = None,
    *,
    size: int | None = None,
    read: Callable[[Image.Image], Tensor] | None = None,
    prefix: str = "image",
) -> Images:
    """Labelled images from what a program already holds; nothing is copied to disk.

    Pixels are 8-bit integers, or floats in [0, 1]. They are *not* normalised: a classifier does
    that itself. A batch is (n, 3, h, w) or (n, h, w, 3); grey images, (n, h, w) or with one
    channel, get three equal channels.

    Args:
        data: one of

            - a tensor or numpy array of images, with ``labels``, or the tuple of both;
            - a map-style :class:`torch.utils.data.Dataset`, a list, or an image dataset of
              Hugging Face's ``datasets``, whose items are ``(image, label)`` or
              ``{"image": image, "label": label}``, an image being a PIL image, a tensor or an
              array; with ``labels`` an item may be the image alone;
            - :class:`Images`, which are returned as they are.
        labels: (n,) class indices, if ``data`` does not hold them. If neither a column nor
            ``targets`` of a dataset holds them, every item is read once to find them.
        size: side in pixels. PIL images are brought to exactly this side (largest centred square,
            bicubic; default: the short side of the first); a larger 8-bit array is shrunk to it.
        read: what makes pixels (3, h, w) from a PIL image instead, such as the ``preprocessing`` of
            a classifier.
        prefix: image i is called "prefix i".

    Returns:
        The images. A dataset's items are read each time they are requested and must be the same
        each time, so leave out random transforms.

    Raises:
        InputError: another type, no images, pixels outside the range, labels that are missing or
            not class indices, or images of several sizes.

    >>> images = as_images(np.zeros((2, 4, 4), np.uint8), [0, 1])
    >>> images.load([1]).shape, images.labels.tolist(), images.name(1)
    (torch.Size([1, 3, 4, 4]), [0, 1], 'image 1')
    >>> as_images([{"image": Image.new("RGB", (6, 4)), "label": 2}]).load([0]).shape
    torch.Size([1, 3, 4, 4])
    """
    check_size(size)
    if labels is None and isinstance(data, tuple) and len(data) == 2 and _is_array(data[0]):
        data, labels = data
    if _is_array(data):
        return _from_array(data, labels, size, prefix)
    if all(hasattr(data, name) for name in ("labels", "load", "name")):
        if labels is not None:
            raise InputError("labels for images that have their own: leave them out")
        images: Images = data
        return images
    return DatasetImages(data, labels, size, read=read, prefix=prefix)


class DatasetImages:
    """The items of a map-style dataset, read each time they are asked for (:func:`as_images`)."""

    def __init__(
        self,
        items: Data,
        labels: Labels | None = None,
        size: int | None = None,
        *,
        read: Callable[[Image.Image], Tensor] | None = None,
        prefix: str = "image",
    ) -> None:
        self.items, self.prefix = _sequence(items), prefix
        count = len(self.items)
        if count == 0:
            raise InputError("no images: a set has at least one image")
        first = self._image(0)
        side = min(first.size) if size is None and isinstance(first, Image.Image) else size
        self._read = read or (lambda image: _square(image, side or min(image.size)))
        self.shape = self._pixels(0).shape
        given = self._own_labels() if labels is None else labels
        self.labels = class_indices(given, count)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def load(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The images at ``indices``: float32 in [0, 1], (len(indices), 3, h, w)."""
        stack = torch.empty(len(indices), *self.shape)
        for place, i in enumerate(int(i) for i in indices):
            pixels = self._pixels(i)
            if pixels.shape != self.shape:
                raise InputError(
                    f"{self.name(i)} has {tuple(pixels.shape[1:])} pixels, the first has "
                    f"{tuple(self.shape[1:])}; let the dataset bring every image to one size"
                )
            stack[place] = unit_range(pixels)
        return stack

    def name(self, i: int) -> str:
        """The place of image i in its set."""
        return f"{self.prefix} {i}"

    def _image(self, i: int) -> Any:
        item = self.items[i]
        if isinstance(item, Mapping):
            return item[_key(item, IMAGE_KEYS, "image")]
        if isinstance(item, tuple | list) and len(item) == 2:
            return item[0]
        return item

    def _pixels(self, i: int) -> Tensor:
        image = self._image(i)
        if isinstance(image, Image.Image):
            try:
                image = self._read(image)
            except (ValueError, OSError) as error:
                raise InputError(f"{self.name(i)}: {error}") from error
        if not _is_array(image):
            kind = type(image).__name__
            length = f" of length {len(image)}" if isinstance(image, tuple) else ""
            raise InputError(f"{self.name(i)} is a {kind}{length}: {LABELLED}")
        return as_pixels(image[None], self.name(i))[0]

    def _label(self, i: int) -> Any:
        item = self.items[i]
        if isinstance(item, Mapping):
            return item[_key(item, LABEL_KEYS, "label")]
        if isinstance(item, tuple | list) and len(item) == 2:
            return item[1]
        raise InputError(f"{self.name(i)} has no label: {LABELLED}")

    def _own_labels(self) -> Any:
        """From the column or the attribute that holds them, else from the items."""
        columns = getattr(self.items, "column_names", None) or ()
        for key in LABEL_KEYS:
            if key in columns:
                return self.items[key][:]  # a column of Hugging Face's datasets
        targets = getattr(self.items, "targets", None)
        if targets is not None and getattr(self.items, "target_transform", None) is None:
            return targets
        return [_index(self._label(i), self.name(i)) for i in range(len(self.items))]


def as_pixels(array: Tensor | NDArray[Any], name: str = "images") -> Tensor:
    """A batch of images as (n, 3, h, w): uint8, or float32 in [0, 1].

    Args:
        array: (n, 3, h, w), (n, h, w, 3), or grey as (n, 1, h, w), (n, h, w, 1), (n, h, w);
            integers from 0 to 255 or floats in [0, 1].
        name: what a message calls it.

    Raises:
        InputError: another shape, type or range.

    >>> as_pixels(np.zeros((2, 5, 4, 3))).shape, as_pixels(torch.ones(1, 1, 4, 4)).dtype
    (torch.Size([2, 3, 5, 4]), torch.float32)
    """
    if not _is_array(array):
        raise InputError(f"{name} are a {type(array).__name__}: give a tensor or a numpy array")
    pixels = torch.as_tensor(array)
    if pixels.dtype in (torch.uint16, torch.uint32, torch.uint64):
        pixels = pixels.long()  # of these, torch finds no least and greatest
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels
    if pixels.ndim != 4 or not {1, 3} & {pixels.shape[1], pixels.shape[3]}:
        raise InputError(
            f"{name}: shape {tuple(array.shape)}; expected (n, 3, h, w) or (n, h, w, 3)"
        )
    if pixels.shape[1] not in (1, 3):
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.shape[1] == 1:
        pixels = pixels.repeat(1, 3, 1, 1)
    if pixels.is_complex() or pixels.dtype == torch.bool:
        raise InputError(f"{name}: pixels are {pixels.dtype}; expected 8-bit or floats in [0, 1]")
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.numel() else (0.0, 0.0)
    most = 1 if pixels.is_floating_point() else 255
    if not (low >= 0 and high <= most):  # true for NaN as well
        raise InputError(
            f"{name}: pixels from {low:g} to {high:g}, expected 0 to {most}; divide by 255, and "
            "leave out Normalize: the classifier normalises by itself"
        )
    return pixels.float() if pixels.is_floating_point() else pixels.to(torch.uint8).contiguous()


def class_indices(labels: Any, count: int) -> Tensor:
    """Labels as int64 (count,).

    Raises:
        InputError: another number of labels, or labels that are no class indices.
    """
    try:
        found = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"labels are a {type(labels).__name__} that cannot be read: give {count} class indices"
        ) from error
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise InputError(f"labels are {found.dtype}: give class indices as integers")
    if found.shape != (count,):
        raise InputError(
            f"{count} images with labels of shape {tuple(found.shape)}; give one class index each"
        )
    found = found.to(torch.int64)  # of some other kinds, torch finds no least
    if count and int(found.min()) < 0:
        raise InputError(f"label {int(found.min())} is negative: classes are counted from 0")
    return found


class _FloatImages:
    """Float images in memory, (n, 3, h, w) in [0, 1], kept to the last bit."""

    def __init__(self, pixels: Tensor, labels: Tensor, prefix: str) -> None:
        self.pixels, self.labels, self.prefix = pixels, labels, prefix

    def __len__(self) -> int:
        return len(self.pixels)

    def load(self, indices: Sequence[int] | Tensor) -> Tensor:
        return self.pixels[torch.as_tensor(indices, dtype=torch.int64)]

    def name(self, i: int) -> str:
        return f"{self.prefix} {i}"


def _from_array(
    array: Tensor | NDArray[Any], labels: Labels | None, size: int | None, prefix: str
) -> Images:
    pixels = as_pixels(array).detach().cpu()
    if labels is None:
        raise InputError(f"{len(pixels)} images without labels: give labels=, one class index each")
    found = class_indices(labels, len(pixels)).cpu()
    if len(pixels) and pixels.dtype != torch.uint8:
        return _FloatImages(pixels, found, prefix)
    return ImageArray(pixels, found, size, prefix=prefix)


def _sequence(data: Data) -> Any:
    """What has a length and items by their places."""
    kind = type(data).__name__
    if hasattr(data, "dataset") and hasattr(data, "batch_size"):
        raise InputError(f"{kind}: give the dataset itself, loader.dataset")
    if hasattr(data, "train") and hasattr(data, "class_names"):
        raise InputError(f"{kind} has several sets: give data.train or data.test")
    sized = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    if not sized or isinstance(data, str | bytes | Mapping):
        raise InputError(f"images are a {kind}: {LABELLED}")
    return data


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _key(item: Mapping[str, Any], keys: Sequence[str], what: str) -> str:
    for key in keys:
        if key in item:
            return key
    raise InputError(f"an item has the keys {', '.join(map(str, item))}: no {what}; rename one")


def _index(label: Any, name: str) -> int:
    try:
        return operator.index(label)
    except TypeError as error:
        raise InputError(f"{name} has the label {label!r}: give a class index") from error


def _square(image: Image.Image, side: int) -> Tensor:
    """The largest centred square of an image at a side, as :func:`stakes.data.decode.decode`."""
    image = converted(image, "RGB")
    if image.size != (side, side):
        image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
