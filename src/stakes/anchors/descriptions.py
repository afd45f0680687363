"""Descriptions of classes: names to visual attributes, read from JSON and checked."""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from stakes.errors import InputError, some
from stakes.texts import expanded, read_text

SHIPPED = ("digits", "cifar10", "cifar100")
"""Names of the descriptions and anchors that come with the package."""

Descriptions = dict[str, list[str]]


def shipped(folder: str, name: str) -> Traversable:
    """A file that comes with the package."""
    return resources.files("stakes.anchors") / "shipped" / folder / name


def read_descriptions(source: str | Path) -> Descriptions:
    """Read ``{class: [attribute, ...]}`` from a JSON file, or a shipped set by its name.

    A file that ``stakes describe`` wrote holds them under ``descriptions``.

    Raises:
        InputError: no such file, no JSON, a class that stands twice or has no attributes, or an
            attribute that is no text; says where.

    >>> len(read_descriptions("cifar10"))
    10
    """
    return read_written(source)[1]


def read_written(source: str | Path) -> tuple[dict[str, Any], Descriptions]:
    """As :func:`read_descriptions`, after what else a file of ``stakes describe`` says, if it is.

    Raises:
        InputError: as :func:`read_descriptions`.
    """
    if str(source) in SHIPPED:
        text = shipped("descriptions", f"{source}.json").read_text(encoding="utf-8")
    else:
        text = read_text(expanded(source), "descriptions").removeprefix("\ufeff")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"{source} describes {some(twice)} more than once: keep one")
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=once)
    except (json.JSONDecodeError, RecursionError) as error:  # the latter: thousands of brackets
        raise InputError(f"{source} is not JSON ({error}): correct it there") from error
    card: dict[str, Any] = {}
    if isinstance(found, dict) and isinstance(found.get("descriptions"), dict):
        card, found = found, found.pop("descriptions")
    return card, check_descriptions(found, str(source))


def read_classes(path: str | Path) -> list[str]:
    """Read class names, one a line; empty lines are passed over.

    Raises:
        InputError: no such file, no text in it, or fewer than two different names.
    """
    lines = read_text(expanded(path), "--classes").removeprefix("\ufeff").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if len(names) < 2:
        raise InputError(f"--classes {path}: expected two or more names, one per line")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"--classes {path}: {some(twice)} appears more than once; give each class its own name"
        )
    return names


def check_descriptions(found: Any, where: str = "the descriptions") -> Descriptions:
    """Check that ``found`` maps class names to lists of attributes, and give it with plain types.

    Raises:
        InputError: it does not; says for which class.
    """
    if not isinstance(found, Mapping) or not found:
        raise InputError(f'{where} must be an object {{"class": ["attribute", ...], ...}}')
    for name, attributes in found.items():
        if isinstance(attributes, str) or not isinstance(attributes, Sequence) or not attributes:
            raise InputError(f'{where}: "{name}" needs a list of at least one attribute')
        for attribute in attributes:
            if not isinstance(attribute, str) or not attribute.strip():
                raise InputError(
                    f'{where}: "{name}" has the attribute {attribute!r}, which is not text: '
                    "write a few words"
                )
    return {str(name): [text.strip() for text in attributes] for name, attributes in found.items()}
