"""Give every method the same number of trials, then score each with what served it best.

    python benchmarks/tune.py OUT --data CIFAR10_FOLDER --weights resnet20-12fca82f.th
    python benchmarks/tune.py OUT ... --only npo amun      # some of the methods

Published settings belong to the network and the training data that their authors had. So each
method gets five trials on a draw of images that no table uses: its learning rate (or what it has in
place of one) at a tenth, a third, once, three times and ten times the published value, and time to
forget every image. Of the trials that keep at least half of the accuracy (of all, if none does),
the one that forgets most is chosen; of several, the one with the highest accuracy on test and
retained images of that draw. What was chosen then runs on the tables' draws.

OUT gets trials/ and tuned/, each a folder of `stakes bench`, and chosen.md. The same command
resumes.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from stakes.runs.benchmark import FAILED

FACTORS = (0.1, 0.3, 1, 3, 10)
DRAW, DRAWS, K = 11, (0, 1, 2), 16
STEPS = 300  # that a method may take, which L2UL and Adv take by their published rule
PASSES = {"epochs": 0, "max_steps": STEPS}
#: Method -> its name in the tables, what is tuned, the published value, what else is set.
TUNED: dict[str, tuple[str, str, float, dict[str, Any]]] = {
    "structguard": ("STRUCTGUARD", "lr", 1e-3, {"max_steps": STEPS}),
    "neggrad": ("NegGrad", "lr", 1e-3, {}),
    "rawp": ("RAWP", "gamma", 5e-3, {"max_steps": STEPS}),
    "random_label": ("Random label", "lr", 1e-4, PASSES),
    "boundary_shrink": ("Boundary shrink", "lr", 1e-5, PASSES),
    "boundary_expand": ("Boundary expand", "lr", 1e-5, PASSES),
    "delete": ("DELETE", "lr", 1e-4, PASSES),
    "esc": ("ESC", "share", 0.015, {}),
    "negmerge": ("NegMerge", "lr", 3e-3, {}),
    "fisher": ("Fisher", "alpha", 1e-6, {}),
    "npo": ("NPO", "lr", 1e-3, {"max_steps": STEPS}),
    "amun": ("AMUN", "lr", 1e-2, PASSES),
    "jit": ("JiT", "lr", 3e-4, {}),  # one pass, as published: after more it diverges at any rate
    "mu_mis": ("MU-Mis", "lr", 1e-5, {"max_steps": STEPS}),
    "adv": ("Adv", "lr", 1e-3, {}),
    "l2ul": ("L2UL", "lr", 1e-3, {}),
}
HEAD = f"""\
forget = "random:{{k}}"
k = [{K}]
figures = []

[set]
data = "a folder with train/<class> and test/<class>, or the name cifar10"
weights = "the file resnet20-12fca82f.th"

[common]
data = "{{data}}"
eval_samples = 2000

[[network]]
name = "ResNet-20"
model = "stakes:cifar_resnet20"
weights = "{{weights}}"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
"""


def settings(method: str, factor: float) -> dict[str, Any]:
    """The options of a method with what is tuned at a multiple of its published value."""
    _, field, published, more = TUNED[method]
    value = float(f"{published * factor:.4g}")
    same = {"alpha_max": value} if method == "fisher" else {}  # it searches from one to the other
    return {field: value} | same | more


def recipe(title: str, seeds: tuple[int, ...], cells: dict[str, tuple[str, float]]) -> str:
    """A recipe of `stakes bench` with a line for each name, method and factor."""
    lines = [f"title = {json.dumps(title)}", f"seeds = {list(seeds)}", HEAD]
    for name, (method, factor) in cells.items():
        options = {"name": name, "method": method} | settings(method, factor)
        lines += ["[[method]]", *(f"{key} = {json.dumps(value)}" for key, value in options.items())]
    return "\n".join(lines) + "\n"


def trials(methods: list[str]) -> dict[str, tuple[str, float]]:
    return {f"{TUNED[m][0]}, x {factor:g}": (m, factor) for m in methods for factor in FACTORS}


def chosen(rows: list[dict[str, Any]], methods: list[str]) -> dict[str, tuple[str, float]]:
    """Of every method, the trial to run.

    First come trials that keep half of the accuracy, then those that forget most, then those that
    keep most.
    """

    def merit(row: dict[str, Any]) -> tuple[bool, float, float]:
        keeps = row["acc_test"] + row["acc_retain"]
        half = (row["acc_test_before"] + row["acc_retain_before"]) / 2
        return keeps >= half, 100 - row["acc_forget"], keeps

    named = trials(methods)
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        method = named[row["cell_method"]][0]
        if method not in best or merit(row) > merit(best[method]):
            best[method] = row
    return {f"{TUNED[m][0]}, tuned": named[row["cell_method"]] for m, row in best.items()}


def table(rows: list[dict[str, Any]], best: dict[str, tuple[str, float]]) -> str:
    """Every trial, the chosen one marked."""
    lines = ["| trial | forgotten | test accuracy | retained images | steps | chosen |"]
    lines += ["|---|---:|---:|---:|---:|---|"]
    winners = {f"{TUNED[m][0]}, x {factor:g}" for m, factor in best.values()}
    for row in rows:
        name = row["cell_method"]
        numbers = (100 - row["acc_forget"], row["acc_test"], row["acc_retain"])
        told = " | ".join(f"{number:.2f}" for number in numbers)
        lines.append(f"| {name} | {told} | {row['steps']:,} | {'yes' if name in winners else ''} |")
    return "\n".join(lines) + "\n"


def bench(out: Path, name: str, text: str, words: list[str]) -> list[dict[str, Any]]:
    """Run a recipe, or what is left of it; its rows. A trial that broke down has none."""
    path = out / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    asked = [sys.executable, "-m", "stakes", "bench", str(path), "--out", str(out / name), *words]
    ended = subprocess.run(asked, check=False)
    if ended.returncode not in (0, FAILED):
        raise SystemExit(ended.returncode)
    lines = (out / name / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--only", nargs="+", choices=TUNED, default=list(TUNED))
    parser.add_argument("--jobs", default="1")
    parser.add_argument("--threads", default="1")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    words = ["--set", f"data={asked.data}", "--set", f"weights={asked.weights}"]
    words += ["--jobs", asked.jobs, "--threads", asked.threads]
    tried = bench(
        asked.out, "trials", recipe("Trials, draw 11", (DRAW,), trials(asked.only)), words
    )
    best = chosen(tried, asked.only)
    told = table(tried, best)
    (asked.out / "chosen.md").write_text(told, encoding="utf-8")
    print(told)
    title = "CIFAR-10, ResNet-20, 16 images: every method with five trials on another draw"
    bench(asked.out, "tuned", recipe(title, DRAWS, best), words)


if __name__ == "__main__":
    main()
