"""How the cost of a step grows: with k, classes, the size of images, and the data that is scored.

    python benchmarks/scaling.py OUT            # k to 4,096, classes to 21,000, 224 pixels
    python benchmarks/scaling.py OUT --light    # fewer points
    python benchmarks/scaling.py OUT --light --axes side    # one axis again, the others as they are

OUT gets scaling.jsonl, scaling.md and scaling.svg. Every point is the median of `--repeats`
processes of their own, so that its peak memory is its own; seconds are the processor's, of all
threads.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch

from costs import cost, hardware, network, noise, now
from stakes.data.images import ImageArray
from stakes.evaluation.evaluate import evaluate
from stakes.runs.allocation import keep_freed_memory
from stakes.runs.environment import peak_memory_mb

NETWORK, SIDE, K = "stakes:cifar_resnet20", 32, 16
AXES: dict[str, tuple[int, ...]] = {
    "k": (1, 4, 16, 64, 256, 1024, 4096),
    "classes": (2, 10, 100, 1000, 21000),
    "side": (16, 32, 64, 128, 224),
    "scored": (500, 1000, 2000, 4000, 8000),
}
LIGHT: dict[str, tuple[int, ...]] = {
    "k": (1, 16, 256, 4096),
    "classes": (2, 100, 1000, 21000),
    "side": (16, 32, 64, 128),
    "scored": (500, 1000, 2000),
}
WORDS = {
    "k": "images to forget",
    "classes": "classes",
    "side": "side of an image, pixels",
    "scored": "images scored",
}


def point(axis: str, value: int, steps: int) -> dict[str, Any]:
    """One point: what is not on the axis is the default."""
    if axis == "scored":
        return scoring(value)
    given = {"k": K, "classes": 10, "side": SIDE} | {axis: value}
    if axis == "side":
        steps = max(2, min(steps, steps * 64**2 // value**2))
    return cost(NETWORK, steps=steps, **given)


def scoring(count: int) -> dict[str, Any]:
    """Seconds to score so many test images before and after, all else included."""
    made = network(NETWORK, SIDE, 10, "cpu")
    forget = noise(made, K)
    pixels = torch.randint(256, (count, 3, SIDE, SIDE), dtype=torch.uint8)
    images = ImageArray(pixels, torch.arange(count) % 10, prefix="test")
    start = now(made.device)
    evaluate(made, made.copy(), forget, test=images, thumbnails=False)
    took = now(made.device) - start
    return {"seconds_step": took, "peak_memory_mb": peak_memory_mb(made.device)}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    good = [row for row in rows if "seconds_step" in row]
    axes = [axis for axis in AXES if any(row["axis"] == axis for row in good)]
    with mpl.rc_context({"svg.hashsalt": "scaling", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(2.6 * len(axes), 5), layout="constrained")
        plots = figure.subplots(2, len(axes), squeeze=False, sharex="col")
        for column, axis in enumerate(axes):
            mine = [row for row in good if row["axis"] == axis]
            values = [row["value"] for row in mine]
            for plot, key in zip(plots[:, column], ("seconds_step", "peak_memory_mb"), strict=True):
                middle = [row[key] for row in mine]
                ends = [row.get(f"{key}_range", (row[key], row[key])) for row in mine]
                bars = [[m - low for m, (low, _) in zip(middle, ends, strict=True)],
                        [high - m for m, (_, high) in zip(middle, ends, strict=True)]]  # fmt: skip
                plot.errorbar(values, middle, bars, fmt="o-", ms=3, capsize=2)
                plot.set_xscale("log")
                plot.set_xticks(values, [f"{value:,}" for value in values], rotation=90)
                plot.xaxis.set_minor_locator(NullLocator())
                plot.grid(alpha=0.25)
            top = plots[0, column]
            top.set_yscale("log")
            low, high = top.get_ylim()
            top.set_ylim(low / 2, high * 2)
            top.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            top.yaxis.set_major_formatter("{x:g}")
            top.yaxis.set_minor_locator(NullLocator())
            plots[1, column].set_ylim(bottom=0)
            whole = axis == "scored"
            plots[0, column].set_ylabel("seconds in all" if whole else "seconds a step")
            plots[1, column].set_ylabel("peak memory, MiB")
            plots[1, column].set_xlabel(WORDS[axis])
        figure.savefig(path, format="svg", metadata={"Date": None})


def table(rows: list[dict[str, Any]], on: str) -> str:
    lines = [
        f"{NETWORK}, k = {K}, {SIDE} pixels, 10 classes, except on the axis. {on}",
        "",
    ]
    lines += ["Medians of n processes, the least and the greatest in brackets.", ""]
    lines += ["| axis | value | n | seconds a step | peak memory, MiB | passes, % |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        head = f"| {WORDS[row['axis']]} | {row['value']:,} |"
        if "failed" in row:
            lines.append(f"{head} | {row['failed']} | | |")
            continue
        share = f"{row['share_passes']:.0f}" if "share_passes" in row else ""
        low, high = row["seconds_step_range"]
        took = f"{row['seconds_step']:.3g} ({low:.3g} to {high:.3g})"
        took += " in all" if row["axis"] == "scored" else ""
        lines.append(f"{head} {row['n']} | {took} | {row['peak_memory_mb']:,.0f} | {share} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    keep_freed_memory()  # as commands do
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.point:
        print(json.dumps(point(asked.point[0], int(asked.point[1]), asked.steps)))
    elif asked.out is None:
        parser.error("give OUT")
    else:
        axes = LIGHT if asked.light else AXES
        sweep(asked.out, {name: axes[name] for name in asked.axes}, asked.steps, asked.repeats)


def sweep(out: Path, axes: dict[str, tuple[int, ...]], steps: int, repeats: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    file = out / "scaling.jsonl"
    earlier = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = [row for row in map(json.loads, earlier) if row["axis"] not in axes]
    for axis, values in axes.items():
        for value in values:
            rows.append({"axis": axis, "value": value} | measured(axis, value, steps, repeats))
            print(json.dumps(rows[-1]), flush=True)
            rows.sort(key=lambda row: list(AXES).index(row["axis"]))
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (out / "scaling.md").write_text(table(rows, hardware("cpu")), encoding="utf-8")
    draw(rows, out / "scaling.svg")
    print((out / "scaling.md").read_text(encoding="utf-8"))


def measured(axis: str, value: int, steps: int, repeats: int) -> dict[str, Any]:
    """The medians of so many processes, or how the first of them failed."""
    words = [sys.executable, __file__, "--steps", str(steps), "--point", axis, str(value)]
    found = []
    for _ in range(repeats):
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            return {"failed": "failed: " + (ended.stderr.strip() or "?").splitlines()[-1][:200]}
        found.append(json.loads(ended.stdout.splitlines()[-1]))
    row: dict[str, Any] = found[0] | {"n": len(found)}
    for key in ("seconds_step", "peak_memory_mb", "share_passes"):
        numbers = sorted(one[key] for one in found if key in one)
        if numbers:
            row[key] = median(numbers)
            row[f"{key}_range"] = [numbers[0], numbers[-1]]
    return row


if __name__ == "__main__":
    main()
