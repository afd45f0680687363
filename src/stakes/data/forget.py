"""The images to forget, whatever they come as."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from stakes.data import forget_file
from stakes.data.adapter import Data, Labels, as_images, as_pixels, class_indices
from stakes.data.digests import pixel_digests
from stakes.data.forget_checks import check_labels, check_memory, check_set, first_of_each
from stakes.data.forget_lists import Row, csv_rows, folder_rows, whole_classes
from stakes.data.images import ImageFiles
from stakes.errors import InputError, check_seed, quoted, whole_number
from stakes.preprocessing import Reader, unit_range


@dataclass(frozen=True, eq=False)
class ForgetSet:
    """Labelled images that a classifier is to forget, all in memory.

    Attributes:
        images: float32 (k, 3, h, w) in [0, 1].
        labels: int64 (k,), their true classes.
        names: A readable name for each of them.
        indices: Their places in the training set, where known.
        dropped: How many copies of these images, with the same label, were left out.
        classes: The classes to forget as a whole, if whole classes were requested.

    Raises:
        InputError: no images, other shapes or types, values that are NaN or outside [0, 1], or a
            negative label.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    indices: tuple[int, ...] | None = None
    dropped: int = 0
    classes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_set(self.images, self.labels, self.names, self.indices)

    def __len__(self) -> int:
        """k, the number of images."""
        return len(self.names)

    def to(self, device: torch.device | str) -> Self:
        """The same set with its tensors on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def in_one_order(self) -> "ForgetSet":
        """The same images by their digests, so that the order they came in changes nothing."""
        digests = self.pixel_digests()
        order = sorted(range(len(self)), key=digests.__getitem__)
        return replace(
            self,
            images=self.images[order],
            labels=self.labels[order],
            names=tuple(self.names[i] for i in order),
            indices=None if self.indices is None else tuple(self.indices[i] for i in order),
        )

    @classmethod
    def from_tensors(
        cls,
        images: Tensor | NDArray[Any],
        labels: Labels,
        names: Sequence[str] | None = None,
        indices: Sequence[int] | None = None,
    ) -> Self:
        """Check given images, and keep one of those that occur more than once.

        Args:
            images: a tensor or numpy array, as :func:`stakes.data.adapter.as_pixels` takes it.
            labels: (k,) class indices.
            names: a readable name for each image; default "image 0", "image 1", ...
            indices: their places in the training set, if known.

        Raises:
            InputError: as the class itself, and the same image with two labels.

        >>> forget = ForgetSet.from_tensors(torch.zeros(2, 3, 4, 4), [1, 1])
        >>> len(forget), forget.dropped
        (1, 1)
        """
        images = unit_range(as_pixels(images, "forget images"))
        labels = class_indices(labels, len(images))
        names = tuple(names or (f"image {i}" for i in range(len(images))))
        everything = cls(images, labels, names, None if indices is None else tuple(indices))
        first = first_of_each(everything.pixel_digests(), labels, names)
        if len(first) == len(names):
            return everything
        return cls(
            images[first],
            labels[first],
            tuple(names[i] for i in first),
            None if indices is None else tuple(indices[i] for i in first),
            len(names) - len(first),
        )

    @classmethod
    def from_images(
        cls,
        data: Data,
        labels: Labels | None = None,
        *,
        names: Sequence[str] | None = None,
        size: int | None = None,
        read: Reader | None = None,
        max_bytes: int | None = None,
    ) -> Self:
        """Take every image of a dataset, a list, or arrays: all of it is to be forgotten.

        ``data``, ``labels``, ``size`` and ``read`` are as in
        :func:`stakes.data.adapter.as_images`; ``names`` as in from_tensors.

        Raises:
            InputError: what as_images or from_tensors raises, or too many images.

        >>> forget = ForgetSet.from_images([(torch.rand(3, 4, 4), 7)])
        >>> forget.labels.tolist(), forget.names
        ([7], ('image 0',))
        """
        images = as_images(data, labels, size=size, read=read)
        places = range(len(images))
        height, width = images.load([0]).shape[2:]
        check_memory(len(images), (height, width), max_bytes)
        names = names or [images.name(i) for i in places]
        return cls.from_tensors(images.load(places), images.labels, names)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: no such file, or another one.
        """
        return cls(**forget_file.read(path))

    def save(self, path: str | Path) -> None:
        """Write the set to one ``.safetensors`` file: images, labels, names, indices, classes.

        The file holds the images themselves: store and delete it as you would the images.

        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "forget.safetensors"
        >>> forget = ForgetSet.from_tensors(torch.rand(1, 3, 4, 4), [2], ["a.png"])
        >>> forget.save(file)
        >>> ForgetSet.load(file).digest() == forget.digest()
        True
        """
        forget_file.write(
            path,
            images=self.images,
            labels=self.labels,
            names=self.names,
            indices=self.indices,
            dropped=self.dropped,
            classes=self.classes,
        )

    @classmethod
    def require(cls, value: object) -> "ForgetSet":
        """The value, if it is a forget set.

        Raises:
            InputError: it is something else; the message says how to make one of it.
        """
        if isinstance(value, ForgetSet):
            return value
        raise InputError(
            f"the forget set is a {type(value).__name__}: make one with "
            "ForgetSet.from_images(dataset), from_tensors(images, labels) or from_folder(...)"
        )

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        class_names: Sequence[str],
        size: int | None = None,
        *,
        exact: bool = False,
        max_bytes: int | None = None,
        read: Reader | None = None,
    ) -> Self:
        """Read FOLDER/<class>/...: the images of each class in a folder of its name.

        Unlike in a data set, a visible file that is not an image is an error, because it was given
        to be forgotten.

        Args:
            folder: The folder; class folders without files are skipped.
            class_names: The classes, in the order of their labels.
            size: Largest side in pixels, as in ImageFiles; with ``exact`` the side.
            exact: Bring smaller images to ``size`` as well.
            max_bytes: As in :func:`stakes.data.forget_checks.check_memory`; nor may decoding one
                image take more.
            read: As in ImageFiles.

        Raises:
            InputError: no folder, a subfolder that is not a class, a file in the wrong place or of
                another kind, no images, too many, damaged ones, or what from_tensors raises.
        """
        return cls._read(folder_rows(folder, class_names), size, exact, max_bytes, read)

    @classmethod
    def from_csv(
        cls,
        file: str | Path,
        class_names: Sequence[str],
        size: int | None = None,
        *,
        exact: bool = False,
        max_bytes: int | None = None,
        read: Reader | None = None,
    ) -> Self:
        """Read a table of images: a line ``path,label``, then one line for each image.

        Paths are relative to the table. A label is the name of a class; class numbers, counted from
        0, go into a column ``index`` instead of ``label``.
        ``size``, ``exact``, ``max_bytes`` and ``read`` are as in from_folder.

        Raises:
            InputError: no such table, another header, a row that cannot be used (by its line
                number), no rows, too many images, damaged ones, or what from_tensors raises.
        """
        return cls._read(csv_rows(file, class_names), size, exact, max_bytes, read)

    @classmethod
    def from_indices(
        cls, images: Data, indices: Sequence[int] | Tensor, *, max_bytes: int | None = None
    ) -> Self:
        """Take the images at given places of a training set.

        Args:
            images: the training set, as :func:`stakes.data.adapter.as_images` takes it.
            indices: places in it, from 0; of a mask, its ``nonzero()``.
            max_bytes: As in :func:`stakes.data.forget_checks.check_memory`.

        Raises:
            InputError: no indices, some that are not whole numbers or outside the set, too many
                images, or what as_images or from_tensors raises.
        """
        images = as_images(images)
        chosen = _places(indices)
        outside = [i for i in chosen if not 0 <= i < len(images)]
        if outside:
            raise InputError(f"index {outside[0]}: the training set has 0 to {len(images) - 1}")
        if not chosen:
            raise InputError("the forget set is empty: give at least one index")
        height, width = images.load(chosen[:1]).shape[2:]
        check_memory(len(chosen), (height, width), max_bytes)
        names = [images.name(i) for i in chosen]
        return cls.from_tensors(images.load(chosen), images.labels[chosen], names, chosen)

    @classmethod
    def random(cls, images: Data, k: int, seed: int, *, max_bytes: int | None = None) -> Self:
        """Draw k images of a training set (as in from_indices), each at most once.

        With one seed, a smaller draw is the beginning of a larger one.

        Raises:
            InputError: fewer than one image or more than there are, or what from_indices raises.
        """
        images = as_images(images)
        seed, count = check_seed(seed), whole_number(k)
        if count is None or not 1 <= count <= len(images):
            raise InputError(
                f"{quoted(k)} random images: the training set can give 1 to {len(images)}"
            )
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        return cls.from_indices(images, order[:count], max_bytes=max_bytes)

    @classmethod
    def from_classes(
        cls,
        images: Data,
        text: str,
        class_names: Sequence[str],
        seed: int = 0,
        *,
        max_bytes: int | None = None,
    ) -> Self:
        """Take every image of some classes of a training set, so that they are forgotten whole.

        ``text`` is a list of class names, or a share such as ``10%`` of the classes, drawn with
        ``seed`` (see :func:`stakes.data.forget_lists.whole_classes`).

        Raises:
            InputError: classes that cannot be meant, or what from_indices raises.
        """
        images = as_images(images)
        chosen = whole_classes(text, images.labels, class_names, check_seed(seed))
        places = torch.isin(images.labels, torch.tensor(chosen)).nonzero()[:, 0]
        return replace(cls.from_indices(images, places, max_bytes=max_bytes), classes=chosen)

    @classmethod
    def _read(
        cls,
        rows: list[Row],
        size: int | None,
        exact: bool,
        max_bytes: int | None,
        read: Reader | None,
    ) -> Self:
        paths, labels, names = zip(*rows, strict=True)
        files = ImageFiles(paths, labels, size, exact=exact, read=read, max_bytes=max_bytes)
        check_memory(len(files), files.shape, max_bytes)
        return cls.from_tensors(files.load(range(len(files))), files.labels, names)

    def check(self, num_classes: int) -> None:
        """Refuse, with an InputError, a label that is not among the classes."""
        check_labels(self.labels, self.names, num_classes)

    def pixel_digests(self) -> tuple[str, ...]:
        """One digest for each image (see :func:`stakes.data.digests.pixel_digests`)."""
        return pixel_digests(self.images)

    def digest(self) -> str:
        """SHA-256 over images and labels, whatever their order and names."""
        lines = zip(self.pixel_digests(), self.labels.tolist(), strict=True)
        return hashlib.sha256("\n".join(sorted(f"{p} {y}" for p, y in lines)).encode()).hexdigest()


def _places(indices: object) -> list[int]:
    """Whole numbers of a sequence, an array or a tensor; a mask would be read as places 0 and 1."""
    listed: Any = indices.tolist() if hasattr(indices, "tolist") else indices
    try:
        places = list(listed)
        if any(isinstance(place, bool) for place in places):
            raise InputError("indices are a mask; give the places of its images: mask.nonzero()")
        return [index(place) for place in places]
    except TypeError as error:
        raise InputError(f"indices are {quoted(indices)}; give whole numbers") from error
