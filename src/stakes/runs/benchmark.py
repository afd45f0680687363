"""A benchmark: every cell of a recipe in a process of its own, then one table of all.

DIR/runs/CELL is what ``stakes unlearn`` wrote, DIR/cells/CELL.json says how the cell went and
DIR/cells/CELL.log what it printed. A finished cell is verified and not run again; one that failed
is recorded in DIR/failed/CELL.txt, passed by, and tried again the next time.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import torch

from stakes.errors import InputError
from stakes.files import PRIVATE_FOLDER, locked, make_folder
from stakes.runs.cell import Cell
from stakes.runs.choice import chosen
from stakes.runs.pool import Here, Pool
from stakes.runs.recipe import Recipe
from stakes.runs.runner import Runner, command, unfinished
from stakes.runs.tabulate import write_tables
from stakes.runs.threads import cores

FAILED, INTERRUPTED = 1, 130
CORES_A_JOB = 4
MOST_JOBS = 10_000
#: What a benchmark's folder always has; the file is its lock.
FOLDERS, MARK = ("cells", "runs"), ".lock"


def bench(
    recipe: Recipe,
    out: str | Path,
    *,
    jobs: int | None = None,
    threads: int | None = None,
    only: Sequence[str] = (),
    dry_run: bool = False,
    cluster: str | None = None,
    need: Sequence[str] = (),
    log: TextIO | None = None,
) -> int:
    """Run what is not finished yet, then write tables, figures and report.html.

    Written are rows.jsonl, table.csv, .tex and .md, and figure-*.svg for each of the recipe's
    ``figures`` that the runs have the evidence for: of all cells that are finished, also where
    it is stopped.

    Args:
        recipe: see :func:`stakes.runs.recipe.read_recipe`.
        out: folder of the benchmark; the same one resumes.
        jobs: cells at once, each with its share of the cores; by default one a GPU, else one for
            every four cores, and one below eight cores.
        threads: of each cell; by default its share of the cores. The last digits of all numbers
            depend on it.
        only: run the cells that one of these words describes (see
            :func:`stakes.runs.choice.chosen`).
        dry_run: only print the cells with their commands, and which would be run.
        cluster: a Dask scheduler to run them by (see :func:`stakes.runs.cluster.connected`).
        need: NAME=AMOUNT of a worker's resources for each cell.
        log: where progress goes; standard error by default.

    Returns:
        The exit code: 0, 1 where a cell failed or the cluster was lost, 130 where it was
        interrupted.

    Raises:
        InputError: ``out`` is something else, or in use by another benchmark.
    """
    out, log = Path(out), log or sys.stderr
    check_folder(out)
    for option, count in (("--jobs", jobs), ("--threads", threads)):
        if count is not None and count < 1:
            raise InputError(f"{option} {count}: give at least 1")
    if cluster is not None:
        from stakes.runs.cluster import check_cluster  # only here: it is an extra

        check_cluster(cluster, need)
    elif need:
        raise InputError("--need applies to a cluster's workers: add --cluster, or leave it out")
    cells = chosen(recipe.cells, only)
    threads = threads or recipe.threads
    places = share_out(jobs, threads)[: len(cells)]
    if dry_run:
        _print_cells(cells, out, places[0]["OMP_NUM_THREADS"])
        return 0
    fixed = str(threads) if threads else os.environ.get("OMP_NUM_THREADS")
    with _locked(out) as lock:
        runner = Runner(cells, out, log)
        try:
            with _stoppable():
                with _pool(out, places, lock, cluster, need, fixed, log) as pool:
                    runner.run(pool)
                written = write_tables(recipe, out)
        except (KeyboardInterrupt, ConnectionError) as stopped:
            ran = f"{len(runner.done)} of {len(runner.todo)} cells"
            lost = f"{stopped}: " if isinstance(stopped, ConnectionError) else ""
            print(f"{lost}stopped after {ran}; run the same command again to resume", file=log)
            if write_tables(recipe, out):
                print(f"partial table   {out / 'table.md'}", file=log)
            return FAILED if lost else INTERRUPTED
    if written:
        _print_results(out)
    if runner.failed:
        print(f"{len(runner.failed)} cells failed: see {out / 'failed'}", file=log)
    return FAILED if runner.failed else 0


def _print_cells(cells: Sequence[Cell], out: Path, threads: str) -> None:
    for cell in cells:
        state = unfinished(cell, out) or "finished"
        print(f"# {state}; OMP_NUM_THREADS={threads}\n{command(cell, out)}")


def _print_results(out: Path) -> None:
    print(f"table   {out / 'table.md'}\nreport  {out / 'report.html'}")
    for path in sorted(out.glob("figure-*.svg")):
        print(f"figure  {path}")


def check_folder(out: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        InputError: ``out`` is a file, or a folder in which no benchmark has been.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: give a folder")
    if out.is_dir() and any(out.iterdir()):
        folders = all((out / name).is_dir() for name in FOLDERS)
        if not (folders and (out / MARK).is_file()):
            raise InputError(
                f"--out {out} holds files that no benchmark wrote: give another folder"
            )


@contextlib.contextmanager
def _pool(
    out: Path,
    places: Sequence[dict[str, str]],
    lock: int,
    cluster: str | None,
    need: Sequence[str],
    threads: str | None,
    log: TextIO,
) -> Iterator[Pool]:
    """Where the cells are to run: this machine, or a cluster."""
    if cluster is None:
        yield Here(places, lock)
        return
    from stakes.runs.cluster import connected  # only here: it is an extra

    with connected(cluster, need, places, threads, log) as pool:
        pool.clear(str(out.resolve()))
        yield pool


def share_out(jobs: int | None, threads: int | None = None) -> list[dict[str, str]]:
    """What each of the cells that run at once adds to its environment: its threads and its GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    if not torch.cuda.is_available():
        gpus = []
    found = cores()
    jobs = jobs or len(gpus) or (found // CORES_A_JOB if found >= 2 * CORES_A_JOB else 1)
    own = str(threads or os.environ.get("OMP_NUM_THREADS") or max(1, found // jobs))
    at_once = min(jobs, MOST_JOBS)
    places = [{"OMP_NUM_THREADS": own, "MKL_NUM_THREADS": own} for _ in range(at_once)]
    if jobs > 1 and len(gpus) > 1:
        for i, place in enumerate(places):
            place["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)]
    return places


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[int]:
    """Keep other benchmarks out of the folder while this one, or a cell of it, is at work."""
    for folder in (out, *(out / name for name in FOLDERS)):
        make_folder(folder, PRIVATE_FOLDER)
    with contextlib.ExitStack() as stack:
        try:
            number = stack.enter_context(locked(out / MARK))
        except BlockingIOError as error:
            raise InputError(
                f"--out {out}: another benchmark is writing there; wait for it, or give "
                "another folder"
            ) from error
        yield number


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let a scheduler's SIGTERM, or a closed terminal, stop the benchmark as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    before = {s: signal.getsignal(s) for s in numbers if s is not None}
    wanted = [s for s, handler in before.items() if handler is not signal.SIG_IGN]  # nohup
    try:
        for number in wanted:
            signal.signal(number, interrupt)
        yield
    finally:
        for number in wanted:
            signal.signal(number, before[number])
