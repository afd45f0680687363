"""A record of a run, and what may be taken from it: finite numbers, and embedded images."""

import base64
import math
import re
import struct
from collections.abc import Mapping
from typing import Any

Record = dict[str, Any]
THUMBNAIL = re.compile(r"data:image/(png|jpeg|webp);base64,([A-Za-z0-9+/]+={0,2})")


class Row(dict[str, Any]):
    """A record in which what is not there is None: not measured, or not recorded."""

    def __missing__(self, key: str) -> None:
        return None


def number(value: object) -> float | None:
    """A finite number as a float; None for anything else.

    >>> number(3), number(float("nan")), number("3"), number(True)
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the floats
        return None


def minus(a: float | None, b: float | None) -> float | None:
    """``a - b``, or None where either is."""
    return None if a is None or b is None else a - b


def preserved(row: Mapping[str, Any]) -> dict[str, float]:
    """Changes of the accuracies that were to be preserved, as far as measured, in points.

    Where whole classes were to be forgotten, only test images of the others count.

    >>> preserved({"acc_test_before": 91.0, "acc_test": 90.5, "acc_retain": 99.0})
    {'acc_test': -0.5}
    """
    test = "acc_test_kept_classes" if row.get("forgotten_classes") else "acc_test"
    changes = {
        key: minus(number(row.get(key)), number(row.get(f"{key}_before")))
        for key in (test, "acc_retain")
    }
    return {key: change for key, change in changes.items() if change is not None}


def thumbnail(source: object) -> Record | None:
    """An embedded image as {source, width, height} (sizes only of a PNG), else None.

    Anything but image data, such as an address elsewhere, is refused: a page must fetch nothing.

    >>> thumbnail("https://example.org/spy.png") is None
    True
    """
    match = THUMBNAIL.fullmatch(source) if isinstance(source, str) else None
    if match is None:
        return None
    try:
        data = base64.b64decode(match[2], validate=True)
    except ValueError:
        return None
    size: tuple[int | None, int | None] = (None, None)
    if match[1] == "png":
        if len(data) < 24 or not data.startswith(b"\x89PNG\r\n\x1a\n"):
            return None
        size = struct.unpack(">II", data[16:24])
    return {"source": source, "width": size[0], "height": size[1]}
