"""``stakes bench``: every network, method, k and seed of a recipe."""

from typing import Annotated

from cyclopts import Parameter

from stakes.errors import InputError
from stakes.runs.recipe import read_recipe, shipped_recipes
from stakes.runs.words import Place, Switch, Whole


def bench(
    recipe: Annotated[str, Parameter(help=f"a .toml file, or {', '.join(shipped_recipes())}")],
    *,
    out: Place,
    settings: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    jobs: Whole | None = None,
    dry_run: Switch = False,
) -> int:
    """Run every network, method, k and seed of a recipe, each as one `stakes unlearn`; tabulate.

    Run the same command again to resume: finished cells are verified and not run again.

    Args:
        recipe: a .toml file, or the name of one that comes with stakes
        out: folder of the benchmark
        settings: key=value for a {key} in the recipe, such as data=/path/to/images; repeatable
        jobs: cells at once; by default one a GPU, or one for every four cores from eight on
        dry_run: only print every cell, whether it is finished, and its command
    """
    from stakes.runs.benchmark import bench as run_bench  # only here: it imports the report

    pairs = [text.partition("=") for text in settings]
    if not all(key and sign for key, sign, _ in pairs):
        raise InputError("--set takes key=value, such as --set data=/path/to/images")
    found = read_recipe(recipe, {key: value for key, _, value in pairs})
    return run_bench(found, out, jobs=jobs, dry_run=dry_run)
