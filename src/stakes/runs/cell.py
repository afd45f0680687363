"""One run of a benchmark, as a command line of ``stakes unlearn``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stakes.runs.fingerprint import fingerprint
from stakes.runs.inputs import Inputs, RunOptions

#: Options of ``stakes unlearn`` that a recipe may give, beside the method's hyper-parameters.
OPTIONS = {item.name for kind in (Inputs, RunOptions) for item in fields(kind)} - {"forget", "seed"}
#: Options that are off unless they are given, without a form that says so.
SWITCHES = {"download", "force"}
#: Options that are given once for each value.
REPEATED = {"metric"}


@dataclass(frozen=True)
class Cell:
    """One run of a benchmark.

    Attributes:
        name: of its folder.
        network, method: the names that the recipe shows them by.
        k: images to forget, where the recipe varies it.
        seed: of every random choice.
        options: options of ``stakes unlearn`` but for ``--out``, in the order of the command.
    """

    name: str
    network: str
    method: str
    k: int | None
    seed: int
    options: Mapping[str, Any]

    def arguments(self, out: Path) -> list[str]:
        """The command line after ``stakes``; copied to a shell, it repeats the cell."""
        words = ["unlearn"]
        for key, value in self.options.items():
            if key in SWITCHES and not value:
                continue
            several = isinstance(value, list) and key in REPEATED
            for each in value if several else [value]:
                words += _words(f"--{key.replace('_', '-')}", each)
        return [*words, "--out", str(out), "--overwrite"]

    def fingerprint(self) -> str:
        """See :func:`stakes.runs.fingerprint.fingerprint`."""
        return fingerprint(self.options, REPEATED)


def own_metrics(cells: Iterable[Cell]) -> list[str]:
    """The keys of the measures of one's own that the cells ask for."""
    words = [word for cell in cells for word in metric_words(cell.options)]
    return list(dict.fromkeys(word.rpartition(":")[2] for word in words))


def metric_words(options: Mapping[str, Any]) -> list[str]:
    """The measures of one's own that a cell's options name: a list, or a single text."""
    given = options.get("metric", [])
    return [str(word) for word in (given if isinstance(given, list) else [given])]


def _words(flag: str, value: Any) -> list[str]:
    """An option as words of a command line."""
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag.removeprefix('--')}"]
    if isinstance(value, list):
        return [flag, *map(str, value)]
    # a value with a dash before it would be taken for an option
    return [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]
