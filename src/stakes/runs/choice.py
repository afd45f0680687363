"""Some of a recipe's cells: those that ``--only`` names."""

import re
from collections.abc import Mapping, Sequence

from stakes.errors import InputError, nearest
from stakes.runs.cell import Cell

KEYS = ("network", "method", "k", "seed")
_PARTS = re.compile(rf",(?=\s*(?:{'|'.join(KEYS)})\s*=)")  # a name may hold commas of its own


def chosen(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells that one of the words of ``--only`` describes; all of them without any.

    Args:
        cells: of a recipe.
        only: each ``key=value,...``: the cells that agree with all of it. Keys are network,
            method, k and seed; a method goes by its name in the recipe or by that of its
            ``--method``; letters small or large, but a name that is spelt exactly means that
            name alone. A key that is there twice means either.

    Raises:
        InputError: not of this form, an unknown key or value (what there is, is listed), or
            words that together describe no cell.
    """
    if not only:
        return list(cells)
    wanted = [_read(word, cells) for word in only]
    for word, filters in zip(only, wanted, strict=True):
        if not any(_agrees(cell, filters) for cell in cells):
            raise InputError(
                f"--only {word}: the recipe has no such cell; --dry-run lists all cells"
            )
    return [cell for cell in cells if any(_agrees(cell, filters) for filters in wanted)]


def _read(word: str, cells: Sequence[Cell]) -> dict[str, set[str]]:
    """What a word of ``--only`` asks for: key -> any of these values."""
    filters: dict[str, set[str]] = {}
    for part in _PARTS.split(word):
        key, sign, value = (text.strip() for text in part.partition("="))
        if key not in KEYS or not sign:
            raise InputError(
                f"--only {word}: expected key=value, such as k=16,seed=0, with a key of "
                f"{', '.join(KEYS)}"
            )
        there = dict.fromkeys(name for cell in cells for name in _names(cell)[key])
        if value.lower() not in {name.lower() for name in there}:
            raise InputError(f"--only {word}: there is no {key} {value}{nearest(value, there)}")
        exact = any(value in _names(cell)[key][:1] for cell in cells)
        filters.setdefault(key, set()).add(value if exact else value.lower())
    return filters


def _agrees(cell: Cell, filters: Mapping[str, set[str]]) -> bool:
    names = _names(cell)
    return all(
        any({name, name.lower()} & values for name in names[key]) for key, values in filters.items()
    )


def _names(cell: Cell) -> dict[str, list[str]]:
    """What a cell can be called by, for each key."""
    return {
        "network": [cell.network],
        "method": [cell.method, str(cell.options["method"])],
        "k": [] if cell.k is None else [str(cell.k)],
        "seed": [str(cell.seed)],
    }
