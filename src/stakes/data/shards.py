"""Images in tar shards, as WebDataset writes them, each read from its place in its shard.

A shard is an uncompressed tar. The files of one sample have one name up to the first dot: an image,
and its class as a number in NAME.cls, or as ``label`` (or ``cls``) in NAME.json. An image is then
called SHARD.tar@OFFSET+SIZE:NAME.png, from which any function that reads images can read it.
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from stakes.data.folders import entries, is_image
from stakes.errors import InputError, first_line, shortened
from stakes.texts import check_file

CLASSES = "classes.txt"


class Sample(NamedTuple):
    """An image in a shard, and the number of its class."""

    path: str
    label: int


def shards(folder: str | Path) -> list[str]:
    """The shards of a folder, by name."""
    return [entry.path for entry in entries(folder) if entry.name.endswith(".tar")]


def class_list(folder: Path) -> tuple[str, ...]:
    """The names of the classes, in the order of their numbers.

    Raises:
        InputError: they are not written down.
    """
    try:
        lines = (folder / CLASSES).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} holds tar shards, whose classes are numbers: add {folder / CLASSES}, "
            "one name per line in the order of the numbers"
        ) from error
    return tuple(line.strip() for line in lines if line.strip())


def samples(paths: Sequence[str]) -> list[Sample]:
    """All samples of shards, in their order; only the heads of their files are read.

    Raises:
        InputError: a damaged or compressed shard, an image without a class, or no images.
    """
    found = [sample for path in paths for sample in _samples(path)]
    if not found:
        raise InputError(
            f"{paths[0]}: no images in the shards of this folder; expected members NAME.png "
            "with NAME.cls"
        )
    return found


def _samples(path: str) -> Iterator[Sample]:
    images: dict[str, str] = {}
    labels: dict[str, int] = {}
    check_file(Path(path), "shard")  # a pipe would be waited for without end
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                key, _, kind = member.name.rpartition("/")[2].partition(".")
                key = f"{member.name.rpartition('/')[0]}/{key}"
                if not member.isfile():
                    continue
                if is_image(f".{kind}"):
                    if key in images:
                        raise ValueError(f"{shortened(key.strip('/'))} appears twice")
                    place = f"{path}@{member.offset_data}+{member.size}"
                    images[key] = f"{place}:{member.name}"
                elif kind in ("cls", "json"):
                    file = shard.extractfile(member)
                    labels[key] = _label(b"" if file is None else file.read(), kind)
    except (tarfile.TarError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as a shard ({first_line(error)}); it must be a tar, not "
            "compressed, with NAME.png and NAME.cls"
        ) from error
    for key, image in images.items():
        if key not in labels:
            raise InputError(f"{image}: no class; add {key.strip('/')}.cls to the shard")
        yield Sample(image, labels[key])


def _label(text: bytes, kind: str) -> int:
    if kind == "cls":
        return int(text)
    found = json.loads(text)
    return int(found["label"] if "label" in found else found["cls"])
