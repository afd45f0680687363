"""Write the README's tables of results from the rows kept in benchmarks/results.

python benchmarks/readme_tables.py          rewrites them
python benchmarks/readme_tables.py --check  only says whether they are up to date (exit code 1)
"""

import json
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def rows(name: str) -> list[dict]:
    lines = (RESULTS / f"{name}.rows.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def spread(values: list[float], digits: int = 2, sign: str = "") -> str:
    """Mean ± sample standard deviation; the mean alone of one value."""
    mean = f"{statistics.fmean(values):{sign}.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def seeds() -> str:
    """The default over networks, k and seeds: changes in points."""
    cells = defaultdict(list)
    for row in rows("structguard-seeds"):
        cells[row["cell_network"], row["k"]].append(row)
    lines = [
        "| network | k | n | forgotten | test accuracy | kept training pictures | steps "
        "| copies still known |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (network, k), found in sorted(cells.items()):
        told = [
            network, str(k), str(len(found)),
            spread([100 - row["acc_forget"] for row in found], 0),
            *changes(found),
            f"{statistics.median(row['steps'] for row in found):.0f}",
            f"{statistics.fmean(row['forget_views'] for row in found):.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(told)} |")
    return minus(lines)


def views() -> str:
    """With the criterion of copies, by network: changes in points."""
    cells = defaultdict(list)
    for row in rows("structguard-views"):
        if row["method_criterion"] == "views":
            cells[row["cell_network"]].append(row)
    lines = [
        "| network | n | forgotten | copies wrong, before | copies wrong | test accuracy "
        "| kept training pictures | steps |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for network, found in sorted(cells.items()):
        told = [
            network, str(len(found)), spread([100 - row["acc_forget"] for row in found], 0),
            spread([100 - row["forget_views_before"] for row in found], 0),
            spread([100 - row["forget_views"] for row in found], 1),
            *changes(found),
            f"{statistics.median(row['steps'] for row in found):.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(told)} |")
    return minus(lines)


def methods() -> str:
    """Every method that was run on 64 pictures, in percent."""
    groups = defaultdict(list)
    for recipe, needs in (("cifar10-resnet20", ""), ("retained-cifar10", " *")):
        for row in rows(recipe):
            if row["k"] == 64:
                groups[row["cell_method"] + needs].append(row)
    first = next(iter(groups.values()))
    before = [
        spread([row[key] for row in first]) for key in ("acc_test_before", "acc_retain_before")
    ]
    lines = [
        "| | n | forgotten | test accuracy | kept training pictures | steps |",
        "|---|---:|---:|---:|---:|---:|",
        f"| before | {len(first)} | 0 | {' | '.join(before)} | |",
    ]
    for method, found in groups.items():
        told = [
            method, str(len(found)), spread([100 - row["acc_forget"] for row in found], 0),
            spread([row["acc_test"] for row in found]),
            spread([row["acc_retain"] for row in found]),
            f"{statistics.median(row['steps'] for row in found):,.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines)


def changes(found: list[dict]) -> list[str]:
    """Test accuracy and accuracy on kept pictures after less before."""
    return [
        spread([row[key] - row[f"{key}_before"] for row in found], sign="+")
        for key in ("acc_test", "acc_retain")
    ]


def minus(lines: list[str]) -> str:
    return "\n".join(lines).replace("| -", "| −")


TABLES = {"seeds": seeds, "views": views, "methods": methods}


def filled(text: str) -> str:
    """``text`` with every table between its two marks written anew."""
    for name, table in TABLES.items():
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"README.md has no {marks[0]} ... {marks[1]}")
        text = pattern.sub(lambda _, t=table, m=marks: f"{m[0]}\n{t()}\n{m[1]}", text)
    return text


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    new = filled(text)
    if "--check" in sys.argv[1:]:
        raise SystemExit(0 if new == text else "README.md: run python benchmarks/readme_tables.py")
    readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
