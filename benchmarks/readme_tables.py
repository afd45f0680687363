"""Write the tables of results in README, docs and trials from the rows in benchmarks/results.

python benchmarks/readme_tables.py          rewrites them
python benchmarks/readme_tables.py --check  only says whether they are up to date (exit code 1)
"""

import math
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kept_rows import (
    CHANGES,
    COPIES,
    IN_DEPTH,
    LEVELS,
    NUMBER,
    RESULTS,
    Columns,
    Rows,
    average,
    by_method,
    complement,
    first,
    grouped,
    line_before,
    ordered,
    recognised,
    rows,
    steps,
    table,
)
from stakes.rows import stat
from stakes.runs.recipe_file import SHIPPED
from tune import TUNED

HERE = Path(__file__).parent
OWN = "STRUCTGUARD"
TUNED_NAME = ", tuned"  # that tune.py adds to the name of a method


def recipe(name: str) -> dict[str, Any]:
    """A recipe of the package."""
    return tomllib.loads((SHIPPED / f"{name}.toml").read_text(encoding="utf-8"))


def over_seeds(found: Rows) -> str:
    """The default by network and k: changes in points."""
    groups = ordered(found, "cell_network", "k")
    columns = {"network": first("cell_network"), "k": first("k")} | NUMBER | CHANGES
    return table(groups, columns | COPIES)


def default() -> str:
    """The default on the k that the README shows."""
    return over_seeds([row for row in by_default() if row["k"] in (1, 16, 64, 256)])


def seeds() -> str:
    """The default on every k."""
    return over_seeds(by_default())


def by_default() -> Rows:
    """The runs of the default criterion."""
    return [row for row in rows("structguard-criteria") if row["cell_method"] == OWN]


def deep() -> str:
    """The criteria deep and exact side by side: depth in percent, changes in points."""
    groups = ordered(rows("structguard-criteria"), "cell_network", "k", "method_criterion")
    columns = {
        "network": first("cell_network"),
        "k": first("k"),
        "criterion": first("method_criterion"),
        **NUMBER,
        "third choice or lower, %": complement("forget_top2", 0),
        "true class at most, %": lambda found: (
            f"{max(row['forget_true_probability_max'] for row in found):.1f}"
        ),
        "new answers predicted, %": average("foretold", 0),
        **CHANGES,
    }
    return table(groups, columns)


def methods() -> str:
    """Every method on 16 images, as published and with the best of five trials, in percent."""
    own = [row for row in rows("cifar10-resnet20") if row["k"] == 16]
    groups = grouped(own, lambda row: row["cell_method"])
    best = {found[0]["cell_method"]: found for found in grouped_tuned()}

    def trial(key: str, column: Callable[[Rows], str]) -> Columns:
        """A column on the tuned runs of the same method, if there are any."""

        def text(found: Rows) -> str:
            mine = best.get(f"{found[0]['cell_method']}{TUNED_NAME}")
            return column(mine) if mine else ""

        return {key: text}

    columns = {
        "": first("cell_method"),
        **NUMBER,
        **LEVELS,
        **COPIES,
        **trial("tuned: forgotten", complement("acc_forget", 0)),
        **trial("tuned: test accuracy", average("acc_test")),
        **trial("tuned: retained images", average("acc_retain")),
    }
    return table(groups, columns, [*line_before(groups[0]), recognised(groups[0]), "", "", ""])


#: A method of the paper's Table 2 by its name in the recipe -> its name in the paper.
LIKEWISE = {
    "STRUCTGUARD (paper)": "STRUCTGUARD",
    "STRUCTGUARD (reference)": "STRUCTGUARD",
    "STRUCTGUARD (reference until forgotten)": "STRUCTGUARD",
    "L2UL": "L2UL",
    "L2UL (until forgotten)": "L2UL",
    "Adv": "Adv",
    "Adv (until forgotten)": "Adv",
    "NegGrad": "NegGrad",
    "RAWP": "RAWP",
    "Fisher": "Fisher",
}


def on_its_network() -> str:
    """The paper's methods and ours on a ResNet-18, beside what it prints, in percent."""
    printed = {(row["method"], row["k"]): row for row in recipe("table2-cifar10")["paper"]["row"]}
    found = [row for row in rows("table2-cifar10") if row["k"] in (16, 64)]

    def in_paper(key: str) -> Callable[[Rows], str]:
        def text(found: Rows) -> str:
            line = printed.get((LIKEWISE.get(found[0]["cell_method"]), found[0]["k"]))
            return f"{line[key]:.2f}" if line else ""

        return text

    columns = {
        "k": first("k"),
        "": first("cell_method"),
        **NUMBER,
        **LEVELS,
        **COPIES,
        "in the paper: test accuracy": in_paper("acc_test"),
        "in the paper: retained images": in_paper("acc_retain"),
    }
    return table(by_method(found, [OWN, f"{OWN} (exact)", *LIKEWISE], "k"), columns)


def more_images() -> str:
    """Every method on more images, as published, in percent."""
    kept = rows("cifar10-resnet20")
    names = list(dict.fromkeys(row["cell_method"] for row in kept))
    columns = {"k": first("k"), "": first("cell_method"), **NUMBER, **LEVELS, **COPIES}
    return table(by_method([row for row in kept if row["k"] > 16], names, "k"), columns)


def grouped_tuned() -> list[Rows]:
    """The runs with the best of five trials, by method."""
    return grouped(rows("tuned-resnet20"), lambda row: row["cell_method"])


def tuned() -> str:
    """Every method with the best of five trials on another draw, in percent."""

    def factor(found: Rows) -> str:
        _, field, published, _ = TUNED[found[0]["method"]]
        return f"`{field}` x {found[0][f'method_{field}'] / published:.2g}"

    columns = {
        "": lambda found: first("cell_method")(found).removesuffix(TUNED_NAME),
        "chosen": factor,
        **NUMBER,
        **LEVELS,
        **COPIES,
    }
    return table(grouped_tuned(), columns)


#: The methods that the paper compares, by their names in the recipes, in its order; then our own.
COMPARED = (
    "STRUCTGUARD (paper)",
    "STRUCTGUARD (paper, summed)",
    "STRUCTGUARD (reference)",
    "STRUCTGUARD (reference until forgotten)",
    "L2UL",
    "L2UL (until forgotten)",
    "Adv",
    "Adv (until forgotten)",
    "NegGrad",
    "STRUCTGUARD (exact)",
    OWN,
)


def holds() -> str:
    """The methods that the paper compares, and our own by its criterion and ours."""
    found = rows("table2-cifar10") + rows("cifar10-resnet20")
    groups = by_method(found, COMPARED, "cell_network", "k")
    columns = {
        "network": first("cell_network"),
        "k": first("k"),
        "": first("cell_method"),
        **NUMBER,
        **LEVELS,
        "structural drift": average("drift_probes"),
        "new answers predicted, %": average("foretold", 0),
    }
    return table(groups, columns)


def published_draws() -> str:
    """The images that the paper's code draws, by both lines of its script, in percent."""
    names = [method["name"] for method in recipe("published-draws")["method"]]
    columns = {
        "network": first("cell_network"),
        "k": first("k"),
        "": first("cell_method"),
        **NUMBER,
        **LEVELS,
    }
    return table(by_method(rows("published-draws"), names, "cell_network", "k"), columns)


def readings() -> str:
    """What the paper's text leaves open, one reading a line, in percent."""
    groups = grouped(rows("paper-readings"), lambda row: row["cell_method"])
    columns = {
        "": first("cell_method"),
        **NUMBER,
        **LEVELS,
        "structural drift": average("drift_probes"),
    }
    return table(groups, columns, [*line_before(groups[0], n=""), ""])


def anchors() -> str:
    """Anchors and structural losses by the paper's own loss, in percent."""
    groups = grouped(rows("anchors-resnet20"), lambda row: row["cell_method"])
    columns = {"": first("cell_method"), **NUMBER, **LEVELS, "steps": steps}
    return table(groups, columns)


def retrained() -> str:
    """Every method beside a network trained without the images: digits, 16 images, in percent."""
    return beside_retraining("digits-retrained", {})


def retrained_cifar10() -> str:
    """The same on CIFAR-10, and two networks retrained from different seeds side by side."""
    return beside_retraining("convnext-retrained", {"retrained, another seed": "another_seed"})


def beside_retraining(name: str, lines: dict[str, str]) -> str:
    """The rows of a recipe, after ``lines``: what they are called, and the kept rows of each."""
    groups = grouped(rows(name), lambda row: row["cell_method"])

    def rounded(key: str) -> Callable[[Rows], str]:
        return lambda found: f"{stat(row[key] for row in found).mean:.2g}"

    def measures(suffix: str = "") -> Columns:
        return {
            "forgotten": complement(f"acc_forget{suffix}", 0),
            "test accuracy": average(f"acc_test{suffix}"),
            "retained images": average(f"acc_retain{suffix}"),
            "gap to retraining": average(f"reference_gap{suffix}"),
            "same answer on test images": average(f"reference_agreement_test{suffix}"),
            "KL divergence on forgotten images, bits": rounded(f"reference_kl_forget{suffix}"),
        }

    def line(called: str, n: str, found: Rows, suffix: str = "") -> list[str]:
        return [called, n, *(column(found) for column in measures(suffix).values()), ""]

    before = [line("before", "", groups[0], "_before")]
    for called, kept in lines.items():
        found = rows(f"{name}.{kept}")
        before.append(line(called, str(len(found)), found))
    named: Columns = {"": first("cell_method"), "n": lambda found: str(len(found))}
    return table(groups, named | measures() | {"steps": steps}, *before)


def convnext() -> str:
    """The criteria on a network without BatchNorm: depth in percent, changes in points."""
    groups = grouped(rows("structguard-convnext"), lambda row: row["cell_method"])
    return table(groups, {"criterion": first("cell_method"), **IN_DEPTH})


def copies() -> str:
    """Copies forgotten in depth with other data in place of the training data."""
    found = rows("structguard-copies") + rows("structguard-sidecar")
    groups = grouped(found, lambda row: (row["cell_network"], row["cell_method"], row["k"]))

    def surrogates(found: Rows) -> str:
        named = first("cell_method")(found).removeprefix(f"{OWN} (views").removesuffix(")")
        return named.removeprefix(", ") or "none"

    def given(found: Rows) -> str:
        return f"{found[0].get('surrogates_count', 0):,}"

    columns = {
        "network": first("cell_network"),
        "surrogate data": surrogates,
        "its images": given,
        "k": first("k"),
    }
    return table(groups, columns | IN_DEPTH)


def retained() -> str:
    """The methods that use retained data, on 16 images, in percent."""
    groups = grouped(rows("retained-cifar10"), lambda row: row["cell_method"])
    columns = {
        "": first("cell_method"),
        **NUMBER,
        **LEVELS,
        **COPIES,
    }
    return table(groups, columns, [*line_before(groups[0]), recognised(groups[0])])


def ablation() -> str:
    """One part changed at a time: changes in points."""
    groups = grouped(rows("structguard-ablation"), lambda row: row["cell_method"])
    columns = {
        "": lambda found: first("cell_method")(found).replace(OWN, "nothing changed"),
        **NUMBER,
        **CHANGES,
        "drift": average("drift_probes", 4),
    }
    return table(groups, columns)


#: Structural drift up to which a kept run is counted, and how the table calls such runs.
BANDS = ((0.1, "below 0.1"), (0.3, "0.1 to 0.3"), (0.5, "0.3 to 0.5"), (math.inf, "0.5 or more"))


def drifts() -> str:
    """How much accuracy the kept runs had lost, by their structural drift."""
    names = sorted(path.name.removesuffix(".rows.jsonl") for path in RESULTS.glob("*.rows.jsonl"))
    found = [
        row | {"band": next(band for band in BANDS if row["drift_probes"] < band[0])}
        for name in names
        for row in rows(name)
        if "drift_probes" in row  # a run's, and not that of two networks side by side
    ]

    def lost(points: float) -> Callable[[Rows], str]:
        """The share of runs that lost so much of test or of retained accuracy."""

        def text(found: Rows) -> str:
            many = [
                max(row[f"{key}_before"] - row[key] for key in ("acc_test", "acc_retain")) >= points
                for row in found
            ]
            return f"{100 * sum(many) / len(many):.0f}"

        return text

    columns = {
        "structural drift": lambda found: str(found[0]["band"][1]),
        "runs": lambda found: str(len(found)),
        "lost two points or more, %": lost(2),
        "lost ten or more, %": lost(10),
    }
    return table(ordered(found, "band"), columns)


TABLES = {
    HERE.parent / "README.md": (default, on_its_network, methods),
    HERE.parent / "docs" / "results.md": (
        seeds,
        deep,
        more_images,
        retained,
        tuned,
        retrained,
        retrained_cifar10,
    ),
    HERE.parent / "docs" / "criteria.md": (copies, convnext),
    HERE.parent / "docs" / "measures.md": (drifts,),
    HERE.parent / "docs" / "does-the-paper-hold.md": (holds, published_draws, readings, anchors),
    HERE / "trials.md": (ablation,),
}


def filled(text: str, tables: tuple[Callable[[], str], ...], name: str) -> str:
    """``text`` with every table between its two marks written anew."""
    for write in tables:
        marks = f"<!-- {write.__name__} -->", f"<!-- end of {write.__name__} -->"
        pattern = re.compile(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{name} has no {marks[0]} ... {marks[1]}")
        new = f"{marks[0]}\n{write()}\n{marks[1]}"
        text = pattern.sub(lambda _, new=new: new, text)
    return text


def main() -> None:
    stale = []
    for path, tables in TABLES.items():
        text = path.read_text(encoding="utf-8")
        new = filled(text, tables, str(path))
        if new != text and "--check" not in sys.argv[1:]:
            path.write_text(new, encoding="utf-8")
        elif new != text:
            stale.append(str(path))
    if stale:
        raise SystemExit(f"{', '.join(stale)}: run python benchmarks/readme_tables.py")


if __name__ == "__main__":
    main()
