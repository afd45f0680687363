"""How images are read: what the command line's words for it mean, and the images as they lie."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from stakes.data.decode import opened
from stakes.data.forget import ForgetSet
from stakes.data.images import ImageArray, ImageFiles, Images
from stakes.errors import InputError, quoted
from stakes.models.cards import delivered_preprocessing
from stakes.models.classifier import Classifier
from stakes.preprocessing import Reader, Size, choose, sides
from stakes.texts import expanded

WORDS = ("resize", "crop_share", "interpolation")
CHOICES = (*WORDS, "mean", "std")
COMPARED = 256  # images, at most, on which two readings are compared


def input_size(given: int | str | None) -> int | Size | None:
    """The input size that ``--input-size`` means: a side, or HEIGHTxWIDTH.

    Raises:
        InputError: neither of these.

    >>> input_size("48x64")
    (48, 64)
    """
    if given is None:
        return None
    parts = str(given).lower().split("x")
    if len(parts) > 2 or not all(p.isdecimal() and 1 <= len(p) <= 4 and int(p) for p in parts):
        raise InputError(
            f"--input-size {quoted(given)}: give a side in pixels, such as 224, or HEIGHTxWIDTH, "
            "such as 48x64, each below 10000"
        )
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def refuse_both(transform: str | None, choices: Mapping[str, Any]) -> None:
    """Refuse, with an InputError, choices beside a transform, which makes all of them."""
    for name, value in choices.items():
        if transform is not None and value is not None:
            option = "--" + name.replace("_", "-")
            raise InputError(f"{option}: --transform already sets this; leave out one of the two")


def as_chosen(
    classifier: Classifier, delivered: Path | None, words: Mapping[str, Any]
) -> Reader | None:
    """What makes a network's input of an image file: as asked, as delivered, or the network's.

    Args:
        classifier: the network, with its own preprocessing.
        delivered: an unlearned network's folder or file, whose card counts where no word is given.
        words: values of the options ``WORDS``, None where not given.

    Raises:
        InputError: words that cannot be used.
    """
    own, (height, width) = classifier.preprocessing, sides(classifier.input_size)
    if delivered is not None and all(word is None for word in words.values()):
        return delivered_preprocessing(delivered, own)
    if words["resize"] == "square" and height != width:
        raise InputError(
            f"--resize square: the network takes {height} x {width} pixels; "
            "choose crop, squash or pad"
        )
    return choose(own, (height, width), **words)


def originals(forget: ForgetSet, asked: str, train: Images | None) -> Iterator[Image.Image]:
    """Images to forget, ``COMPARED`` of them at most, as Pillow opens them.

    Args:
        forget: the images.
        asked: what ``--forget`` said.
        train: the training set, where they were drawn from it.
    """
    top = expanded(asked)
    for place, name in islice(enumerate(forget.names), COMPARED):
        if forget.indices is None:
            path = (top if top.is_dir() else top.parent) / name
        elif isinstance(train, ImageFiles):
            path = Path(train.paths[forget.indices[place]])
        elif isinstance(train, ImageArray):
            yield train.pil_image(forget.indices[place])
            continue
        else:
            return
        with opened(str(path)) as image:
            yield image
