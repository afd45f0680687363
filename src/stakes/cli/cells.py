"""The cells of a benchmark, before the first of them runs: would their commands be refused?"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from cyclopts import CycloptsError

from stakes.anchors.descriptions import SHIPPED
from stakes.anchors.sources import made_from_network
from stakes.cli.commands import make_app
from stakes.cli.refusals import usage
from stakes.cli.unlearn import check_options
from stakes.data.datasets import DATASETS
from stakes.data.forget_words import draws
from stakes.errors import InputError
from stakes.methods import method_class
from stakes.models.specs import BUILDERS, FORMS, RANDOM
from stakes.runs.cell import Cell, metric_words
from stakes.runs.class_names import ORDERS
from stakes.runs.inputs import RunOptions
from stakes.runs.load import check_words, pick_device
from stakes.runs.measures import own_measures
from stakes.runs.runner import read_record
from stakes.texts import expanded

#: Options that name a file or a folder -> words that they take instead.
NAMED: Mapping[str, Collection[str]] = {
    "weights": (RANDOM,),
    "classes": ORDERS,
    "data": DATASETS,
    "forget": (),
    "anchors": SHIPPED,
    "surrogates": DATASETS,
    "sidecar": (),
    "reference": (),
    "transform": (),
    "metric": (),
}


def check_cells(cells: Sequence[Cell], out: Path, here: bool) -> None:
    """Refuse a cell that has still to run and whose command says what cannot be.

    The command line is parsed once for each network and method: k and seed change only words.

    Args:
        cells: of a recipe.
        out: folder of the benchmark.
        here: whether the cells run on this machine: others have files and devices of their own.

    Raises:
        InputError: a value of the wrong type, options that do not go together, a file that is
            not there, a measure of one's own that it lacks, or a device that this machine has not;
            it begins with the cell's name.
    """
    parsed, measures = set(), set()
    for cell in cells:
        if _is_finished(cell, out):
            continue
        try:
            if (cell.network, cell.method) not in parsed:
                parsed.add((cell.network, cell.method))
                _parse(cell.arguments(out))
                if here:
                    _check_device(str(cell.options.get("device", "auto")))
            if here:
                _check_files(cell.options)
                metrics = tuple(metric_words(cell.options))
                if metrics not in measures:
                    measures.add(metrics)
                    own_measures(metrics)
        except InputError as error:
            raise InputError(f"cell {cell.name}: {error}") from error


def _is_finished(cell: Cell, out: Path) -> bool:
    """Whether the cell has run as the recipe has it; what it read may be gone by now."""
    record = read_record(cell, out)
    return record.get("state") == "finished" and record.get("fingerprint") == cell.fingerprint()


def _parse(words: Sequence[str]) -> None:
    """Refuse what ``stakes unlearn`` refuses before it loads anything."""
    app = make_app(words)
    try:
        _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise InputError(usage(error, app)) from error
    given = bound.arguments
    name, inputs = given["method"], given["inputs"]
    kind = method_class(name, given.get("preset"))
    hyper = {item.name for item in fields(kind)} & given.keys()
    method = kind(**{key: given[key] for key in hyper})
    check_options(method, name, inputs, given.get("options", RunOptions()))
    check_words(inputs)


def _check_files(options: Mapping[str, Any]) -> None:
    """Refuse the name of a file or folder that is not there."""
    for key, words in NAMED.items():
        value = options.get(key, [])
        for word in map(str, value if isinstance(value, list) else [value]):
            known = word in words or (key == "anchors" and made_from_network(word))
            if not (known or (key == "forget" and draws(word)) or expanded(_file(word)).exists()):
                raise InputError(f"--{key} {word}: no such file or folder; check the path")
    model = str(options["model"])
    kind, _, rest = model.partition(":")
    if kind != "hf" and kind in BUILDERS:
        return
    if not expanded(rest if kind == "hf" else _file(model)).exists():
        raise InputError(
            f"--model {model}: no such file or folder; give {FORMS}, or the folder of a saved one"
        )


def _file(word: str) -> str:
    """The file of ``path/to/file.py:name``; else the word."""
    file, _, _ = word.rpartition(":")
    return file if file.endswith(".py") else word


def _check_device(name: str) -> None:
    """Refuse a device that is not there; nothing is put on one of CUDA, where cells need it all."""
    if not (name.startswith("cuda") and torch.cuda.is_available()):
        pick_device(name)
