"""From image files to square RGB pixels with 8 bits a channel, and back to small images."""

import base64
import io
import re
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from stakes.errors import InputError
from stakes.preprocessing import converted

# Named one by one, because Pillow would also hand a disguised EPS file to an outside program.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")
# What Pillow raises for damaged files of these formats (20,000 of them were made to find out).
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    RuntimeError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
THUMBNAIL = 64  # pixels
IN_SHARD = re.compile(r"(.*\.tar)@(\d+)\+(\d+):.*", re.DOTALL)  # see stakes.data.shards
DECODING = 2**30  # bytes: most for one image, and for all that are decoded at once
BYTES_A_PIXEL = 12  # what Pillow holds: as decoded, as turned, as converted, 4 bytes each
HEADERS = 256  # as many headers are read to choose the size of a set


def check_size(size: int | None) -> None:
    """Refuse, with an InputError, a side of no pixels."""
    if size is not None and size < 1:
        raise InputError(f"size {size}: the side of an image is at least 1 pixel")


def common_side(paths: Sequence[str], size: int | None) -> int:
    """The one side, in pixels, at which the images of a set are read.

    Up to 256 headers, evenly spread over the set, are read. If all these images have the
    same shape, the side is their short side, but at most ``size``: CIFAR stays 32 x 32 although a
    network wants 224 (the classifier enlarges on its device). If shapes differ, it is ``size``;
    without a ``size``, the smallest short side.

    Raises:
        InputError: an image without a readable header, or a size below 1.
    """
    check_size(size)
    count = min(len(paths), HEADERS)
    chosen = {round(i * (len(paths) - 1) / max(count - 1, 1)) for i in range(count)}
    shapes = {_shape(paths[i]) for i in sorted(chosen)}
    short = min(min(shape) for shape in shapes)
    if size is None:
        return short
    return min(short, size) if len(shapes) == 1 else size


class Room:
    """Memory that threads share: what takes more than is left waits, unless it is alone."""

    def __init__(self, most: int) -> None:
        self._most, self._taken, self._changed = most, 0, threading.Condition()

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Wait for so many bytes, and hold them within the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + count <= self._most)
            self._taken += count
        try:
            yield
        finally:
            with self._changed:
                self._taken -= count
                self._changed.notify_all()


ROOM = Room(DECODING)


def decode(path: str, side: int, max_bytes: int | None = None) -> NDArray[np.uint8]:
    """Read one image as (side, side, 3) RGB, 8 bits a channel.

    The EXIF orientation is applied; grey, palette, CMYK and 16-bit images become RGB; alpha is
    dropped without blending, as torchvision's loader does. An image of another shape has its
    largest centred square resized (bicubic, antialiased).

    Args:
        path: of the image.
        side: in pixels.
        max_bytes: as in :func:`opened`.

    Raises:
        InputError: see :func:`opened`.
    """
    with opened(path, max_bytes) as file:
        image = converted(file, "RGB")
        if image.size != (side, side):
            image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
        return np.asarray(image)


@contextmanager
def opened(path: str, max_bytes: int | None = None) -> Iterator[Image.Image]:
    """An image file as Pillow opens it, decoded; errors of its reader name its path.

    Args:
        path: of the image.
        max_bytes: that decoding may take, 12 bytes a pixel; by default 1 GiB.

    Raises:
        InputError: a missing, damaged or truncated image, one of too many pixels, which is then
            not decoded, or one that the reader refuses.
    """
    with _readable(path), Image.open(_file(path), formats=FORMATS) as file:
        needed = file.width * file.height * BYTES_A_PIXEL
        most = DECODING if max_bytes is None else max_bytes
        if needed > most:
            raise InputError(
                f"{file.width} x {file.height} pixels take {needed / 2**20:,.0f} MiB to decode, "
                f"more than {most / 2**20:,.0f} MiB; make the image smaller, or raise --max-memory"
            )
        with ROOM.taken(needed):
            file.load()
            yield file


def thumbnail(image: Tensor) -> str:
    """An image (3, h, w) in [0, 1] as a PNG data address, at most 64 pixels wide."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    one = Image.fromarray(pixels)
    one.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    one.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _shape(path: str) -> tuple[int, int]:
    with _readable(path), Image.open(_file(path), formats=FORMATS) as file:
        width, height = file.size
    return width, height


def _file(path: str) -> str | io.BytesIO:
    """What Pillow opens: the file, or the part of a shard that the path names."""
    found = IN_SHARD.fullmatch(path)
    if found is None:
        return path
    with open(found[1], "rb") as shard:
        shard.seek(int(found[2]))
        return io.BytesIO(shard.read(int(found[3])))


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        if (place := Path(path)).exists() and not place.is_file():
            raise ValueError("not a regular file")  # to open a pipe would be to wait without end
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such image; check the path") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: no image in a known format; repair it or remove it") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: more pixels than an image may have; make it smaller") from error
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: cannot be read as an image ({reason}); repair it or remove it"
        ) from error
