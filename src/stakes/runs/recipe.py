"""A recipe (TOML) -> the cells of a benchmark, each one command line of ``stakes unlearn``.

A recipe holds::

    title = "..."                 # of the report and the tables
    forget = "random:{k}"
    k = [16, 64]
    seeds = [0, 1, 2]
    figures = ["2a", "6"]         # of the paper, to be drawn of these runs
    columns = ["+mia_forget", "-drift_probes"]  # of the table; without signs: these alone
    threads = 1                   # of every cell; by default its share of the cores
    [set]                         # what --set has to say, each with a word on what it is
    data = "the folder of images"
    [common]                      # options of `stakes unlearn` for every cell
    data = "{data}"
    [[network]]                   # name, model, and options that hold for this network
    [[method]]                    # name, method, preset, hyper-parameters, and options
    [paper]                       # numbers printed elsewhere, to show beside these
"""

import hashlib
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

from stakes.errors import InputError, first_line, nearest
from stakes.files import LONGEST_NAME
from stakes.methods import Method, method_class
from stakes.runs.cell import OPTIONS, Cell, own_metrics
from stakes.runs.choice import chosen
from stakes.runs.columns import check_columns
from stakes.runs.recipe_file import Paper, checked, find_recipe
from stakes.texts import one_form, read_text

PLACEHOLDER = re.compile(r"\{(\w+)\}")
OF_THE_CELL = ("k", "seed")
LONGEST_CELL = LONGEST_NAME - len(".json")  # bytes: DIR/cells/CELL.json
DIGEST_FROM = 200  # bytes of a longer name, whose rest is told by a digest

Table = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A recipe with everything filled in and checked.

    Attributes:
        title, note: of the tables and the page.
        cells: its runs.
        paper: numbers printed elsewhere.
        figures: those to draw, keys of :data:`stakes.report.figures.paper.FIGURES`.
        columns: of the table: see :func:`stakes.runs.columns.columns`.
        threads: of every cell; None for its share of the cores.
    """

    title: str
    note: str
    cells: list[Cell]
    paper: Paper | None
    figures: Sequence[str] = ()
    columns: Sequence[str] = ()
    threads: int | None = None

    def paper_rows(self) -> list[Table]:
        """The lines printed elsewhere, with the keys that they have."""
        rows = [] if self.paper is None else self.paper.row
        return [row.model_dump(exclude_unset=True) for row in rows]


def read_recipe(
    source: str | Path, settings: Mapping[str, str] | None = None, only: Sequence[str] = ()
) -> Recipe:
    """Read a recipe, by its path or by the name of one that comes with stakes.

    Args:
        source: a ``.toml`` file, or a name such as ``quick``.
        settings: what ``{name}`` in the recipe stands for.
        only: the cells that are to run (see :func:`stakes.runs.choice.chosen`). All are there, but
            networks and methods of which none is to run need no settings.

    Raises:
        InputError: no such recipe, not TOML, an unknown key (the nearest is named), a value that
            cannot be, a placeholder without a setting, or no such cells.
    """
    path = find_recipe(source)
    text = read_text(path, "recipe").removeprefix("\ufeff")
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # the latter: thousands of brackets
        raise InputError(f"{path} is not TOML ({first_line(error)}); correct it there") from error
    try:
        return _recipe(tables, dict(settings or {}), path.stem, only)
    except InputError as error:
        raise InputError(f"recipe {path}: {error}") from error


def _recipe(tables: Table, settings: dict[str, str], stem: str, only: Sequence[str]) -> Recipe:
    file = checked(tables)
    parts: Table = {name: getattr(file, name) for name in ("common", "forget", "network", "method")}
    _check_known(settings, _placeholders(parts))
    _check_given(_placeholders(_of_all_cells(parts) if only else parts), file.set, settings)
    if ("{k}" in file.forget) != bool(file.k):
        raise InputError(
            f"forget = {file.forget!r} and k = {file.k}: give k = [...] if forget contains "
            "{k}, and only then"
        )
    ks: list[int | None] = [*file.k] if file.k else [None]
    cells = list(_cells(parts, settings, ks, file.seeds))
    run = {(cell.network, cell.method) for cell in chosen(cells, only)}
    pairs = product(parts["network"], parts["method"])
    used = [pair for pair in pairs if _names(*pair, settings) in run]
    _check_given(_placeholders(used), file.set, settings)
    names = [cell.name for cell in cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"two cells would be called {twice}: give each a name of its own, by letters or digits"
        )
    from stakes.report.figures.paper import (
        FIGURES,  # only here: what it plots with is slow to import
    )

    figures = _known("figures", file.figures, FIGURES)
    columns = check_columns(file.columns, own_metrics(cells))
    if file.paper is not None:
        for row in file.paper.row:
            if row.k not in ks:
                raise InputError(f"[[paper.row]] of {row.method}: k = {row.k}; give one of {ks}")
    return Recipe(file.title or stem, file.note, cells, file.paper, figures, columns, file.threads)


def _cells(
    parts: Table, settings: dict[str, str], ks: Sequence[int | None], seeds: Sequence[int]
) -> Iterator[Cell]:
    """Every cell; all the first seed's before the next, so that each is a table as it goes."""
    combined = [
        (*_names(network, method, settings), *_options(parts["common"], network, method, settings))
        for network, method in product(parts["network"], parts["method"])
    ]
    for seed, k, (network, method, kind, options) in product(seeds, ks, combined):
        filling = settings | {"seed": str(seed)} | ({} if k is None else {"k": str(k)})
        given = {**options, "forget": parts["forget"]}
        filled = {key: _filled(value, filling) for key, value in given.items()}
        filled |= _hyper(kind, given, filled)
        tags = [network, method, *([] if k is None else [f"k{k}"]), f"s{seed}"]
        yield Cell(_slug("-".join(tags)), network, method, k, seed, {**filled, "seed": seed})


def _names(network: Table, method: Table, settings: Mapping[str, str]) -> tuple[str, str]:
    """What the tables call them: the same for every k and seed."""
    names = network.get("name", network.get("model")), method.get("name", method.get("method"))
    first, second = (str(_filled(name, settings)) for name in names)
    return first, second


def _options(
    common: Table, network: Table, method: Table, settings: Mapping[str, str]
) -> tuple[type[Method], Table]:
    """The method's class and the options of one network by one method, their names checked."""
    name = str(_filled(method.get("method", "structguard"), settings))
    preset = _filled(method.get("preset"), settings)
    kind = method_class(name, None if preset is None else str(preset))
    hyper = {item.name for item in fields(kind)}
    tables = [
        {key.replace("-", "_"): value for key, value in t.items()}
        for t in (common, network, method)
    ]
    _only(tables[0], OPTIONS | hyper, f"option of {name} in [common]:")
    _only(tables[1], OPTIONS | {"name"}, "option in [[network]]:")
    _only(
        tables[2],
        OPTIONS | hyper | {"name", "method", "preset"},
        f"option of {name} in [[method]]:",
    )
    given = tables[0] | tables[1] | tables[2]
    if "model" not in given:
        raise InputError("a [[network]] has no model, such as timm:resnet18")
    first: Table = {
        key: given[key] for key in ("model", "weights", "data", "preset") if key in given
    }
    return kind, {
        "method": name,
        **first,
        **{key: v for key, v in given.items() if key not in ("name", "method")},
    }


def _hyper(kind: type[Method], given: Table, filled: Table) -> Table:
    """The hyper-parameters, checked before any cell has run, but for those not yet set.

    A number that a placeholder stood for is a text, as every option of a command line is.
    """
    hints = get_type_hints(kind)
    values = {item.name: filled[item.name] for item in fields(kind) if item.name in filled}
    for key, value in values.items():
        if value != given[key] and hints[key] in (int, float):
            with suppress(ValueError):  # of another text, the method says what it wants
                values[key] = hints[key](value)
    try:
        kind(**{key: value for key, value in values.items() if not _placeholders(value)})
    except InputError as error:
        raise InputError(f"{kind.title}: {error}") from error
    return values


def _of_all_cells(parts: Table) -> list[Any]:
    """What every cell has, and what cells are called and made by."""
    networks = [table.get("name", table.get("model")) for table in parts["network"]]
    made = [table.get(key) for table in parts["method"] for key in ("name", "method", "preset")]
    return [parts["forget"], parts["common"], networks, made]


def _placeholders(value: object) -> set[str]:
    """The names of the placeholders in a recipe's texts that ``--set`` is to fill."""
    return {name for text in _texts(value) for name in PLACEHOLDER.findall(text)} - {*OF_THE_CELL}


def _check_known(settings: Mapping[str, str], used: set[str]) -> None:
    """Every setting has a placeholder."""
    unknown = next((name for name in settings if name not in used), None)
    if unknown is not None:
        end = nearest(unknown, sorted(used)) if used else "; it has no placeholders"
        raise InputError(f"--set {unknown}=...: the recipe does not contain {{{unknown}}}{end}")


def _check_given(used: set[str], asked: Table, settings: Mapping[str, str]) -> None:
    """Every placeholder has a setting."""
    missing = sorted(used - settings.keys())
    if missing:
        words = (f"--set {name}=... ({asked.get(name, 'not described')})" for name in missing)
        raise InputError(f"add {', '.join(words)}")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _filled(value: Any, filling: Mapping[str, str]) -> Any:
    """``value`` with its placeholders filled."""
    if isinstance(value, str):
        return PLACEHOLDER.sub(lambda match: filling.get(match[1], match[0]), value)
    return [_filled(part, filling) for part in value] if isinstance(value, list) else value


def _known(key: str, values: Sequence[str | int], known: Iterable[str]) -> list[str]:
    """The words of a list, all of them known; numbers count as words."""
    known, words = list(known), [str(value) for value in values]
    for word in words:
        if word not in known:
            raise InputError(f"{key}: there is no {word}{nearest(word, known)}")
    if len(set(words)) < len(words):
        raise InputError(f"{key} = {words}: one of them appears twice; keep one")
    return words


def _only(table: Mapping[str, Any], known: Iterable[str], what: str) -> None:
    known = sorted(known)
    for key in table:
        if key not in known:
            raise InputError(f"unknown {what} {key}{nearest(key, known)}")


def _slug(text: str) -> str:
    """The letters and digits of a text, of any script, for the name of a folder and its files.

    >>> _slug("ResNet-18: 日本, k4")
    'resnet-18-日本-k4'
    """
    kept = [c if unicodedata.category(c)[0] in "LMN" else " " for c in one_form(text).lower()]
    name = "-".join("".join(kept).split())
    raw = name.encode()
    if len(raw) <= LONGEST_CELL:
        return name
    return f"{raw[:DIGEST_FROM].decode(errors='ignore')}-{hashlib.sha256(raw).hexdigest()[:32]}"
