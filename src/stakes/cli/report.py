"""``stakes report``: one page from one or several run folders."""

from collections.abc import Sequence
from pathlib import Path

from stakes.errors import InputError
from stakes.files import check_file
from stakes.manifest import MANIFEST, renew
from stakes.report.run_reader import check_run
from stakes.runs.words import Place, Switch
from stakes.texts import say


def report(
    *runs: Place,
    out: Place,
    title: str | None = None,
    reference: Place | None = None,
    overwrite: Switch = False,
) -> None:
    """Make one page from one or several run folders.

    Args:
        runs: folders that `stakes unlearn` wrote
        out: HTML file to write
        title: heading of the page
        reference: a run folder to compare the others with, such as one of retrain or oracle
        overwrite: replace that file
    """
    if not runs:
        raise InputError("report: name at least one run folder")
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {out}: give a name that ends in .html")
    check_file(out, overwrite)
    twice = next((run for i, run in enumerate(runs) if _is_among(run, runs[:i])), None)
    if twice is not None:
        raise InputError(f"report: {twice} is given twice; name every run folder once")
    folders = [*runs, *([] if reference is None else [reference])]
    for folder in folders:
        check_run(folder)
    for folder in folders:
        if not (folder / MANIFEST).exists():
            say(f"note: {folder} has no manifest, so changes to it cannot be detected")
    from stakes.report.page import write_report  # only here: what it plots with is slow to import

    print(write_report(list(runs), out, title=title, reference=reference))
    renew(out)


def _is_among(folder: Path, others: Sequence[Path]) -> bool:
    """Whether one of these paths leads to the same folder."""
    return folder.resolve() in [other.resolve() for other in others]
