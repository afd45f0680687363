"""Whether as many of any copies are forgotten as of those that a run watched.

    python benchmarks/fresh_copies.py RUN [RUN ...] --data FOLDER

RUN is the folder of a run of ``views`` on images drawn from the training set
(``--forget random:k``). For each run: the share of the copies that it watched which are forgotten
in depth, and that of fresh ones, altered in the same ways, at least ``--count`` of them.
"""

import argparse
import json
from pathlib import Path

import torch

from stakes import Classifier
from stakes.data.datasets import load_data
from stakes.data.forget_words import parse_forget
from stakes.data.images import Images
from stakes.data.views import random_view
from stakes.training.criteria import CRITERIA


@torch.no_grad()
def forgotten(run: Path, train: Images, count: int) -> tuple[float, float, float]:
    """Percent required of the watched copies, found in these, and found in fresh ones."""
    row = json.loads((run / "row.json").read_text())
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    network = Classifier.load(run / "model.safetensors").eval()
    images = parse_forget(row["forget"], train, network.class_names, row["seed"])
    draw = torch.Generator().manual_seed(0)
    left = []
    for _ in range(-(-count // len(images))):
        logits = network(random_view(images.images, draw))
        left.append(CRITERIA["views"].lead(logits, images.labels) >= 0)
    fresh = 100 * (1 - float(torch.cat(left).float().mean()))
    return 100 * row["method_views_needed"], 100 - last["views_left"], fresh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--count", type=int, default=1024)
    given = parser.parse_args()
    train = load_data(given.data).train
    print("| run | required, % | of the watched copies, % | of fresh ones, % |")
    print("|---|---:|---:|---:|")
    for run in given.runs:
        required, watched, fresh = forgotten(run, train, given.count)
        print(f"| {run.name} | {required:.0f} | {watched:.1f} | {fresh:.1f} |", flush=True)


if __name__ == "__main__":
    main()
