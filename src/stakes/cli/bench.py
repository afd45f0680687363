"""``stakes bench``: every network, method, k and seed of a recipe."""

from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from stakes.errors import InputError
from stakes.runs.cell import own_metrics
from stakes.runs.choice import chosen
from stakes.runs.columns import check_columns, over
from stakes.runs.recipe import read_recipe
from stakes.runs.recipe_file import shipped_recipes
from stakes.runs.words import Place, Switch, Text, Whole


def bench(
    recipe: Annotated[str, Parameter(help=f"a .toml file, or {', '.join(shipped_recipes())}")],
    *,
    out: Place,
    settings: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    only: tuple[str, ...] = (),
    columns: Text | None = None,
    jobs: Whole | None = None,
    threads: Whole | None = None,
    dry_run: Switch = False,
    cluster: Text | None = None,
    need: tuple[str, ...] = (),
) -> int:
    """Run every network, method, k and seed of a recipe, each as one `stakes unlearn`; tabulate.

    Run the same command again to resume: finished cells are verified and not run again.

    Args:
        recipe: a .toml file, or the name of one that comes with stakes
        out: folder of the benchmark
        settings: key=value for each {key} in the recipe, such as data=/path/to/images; repeatable
        only: run only the cells with these values of network, method, k or seed, such as
            k=16,seed=0,method=l2ul; repeatable: cells that match any of them
        columns: columns of the tables: +mia_forget,-drift_probes adds one to those of the recipe
            and drops one; keys without a sign replace them all
        jobs: cells to run at once; by default one per GPU, else one per four cores if there are at
            least eight, else one
        threads: threads of each cell; by default its share of the cores
        dry_run: only print each cell, its state and its command
        cluster: run the cells with Dask: local, the address of a scheduler (tcp://HOST:PORT), or
            its scheduler file
        need: resources of a worker that each cell needs: NAME=AMOUNT, such as GPU=1; repeatable
    """
    # only here: they import torch, and the report
    from stakes.cli.cells import check_cells
    from stakes.runs.benchmark import bench as run_bench
    from stakes.runs.benchmark import check_folder

    pairs = [text.partition("=") for text in settings]
    if not all(key and sign for key, sign, _ in pairs):
        raise InputError("--set takes key=value, such as --set data=/path/to/images")
    found = read_recipe(recipe, {key: value for key, _, value in pairs}, only)
    if columns is not None:
        keys = over(found.columns, [key.strip() for key in columns.split(",")])
        found = replace(found, columns=check_columns(keys, own_metrics(found.cells)))
    check_folder(out)
    try:
        check_cells(chosen(found.cells, only), out, here=cluster is None)
    except InputError as error:
        raise InputError(f"recipe {recipe}: {error}") from error
    return run_bench(
        found,
        out,
        jobs=jobs,
        threads=threads,
        only=only,
        dry_run=dry_run,
        cluster=cluster,
        need=need,
    )
