"""A storm of kills: runs ended by SIGKILL at random moments, each then finished by the same run.

    nice python benchmarks/kill_storm.py --kills 100

A small network learns digits and forgets 16 of them, again and again, in folders of their own and
over earlier results. A run is killed at a random moment, up to eight times, and then left to
finish. It prints how many kills there were, in which phase, how many runs were finished to the bits
of one that nobody disturbed, and what lies in the folders that is no result.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from stakes import demo
from stakes.anchors.anchors import Anchors
from stakes.data.datasets import load_data
from stakes.data.forget import ForgetSet
from stakes.manifest import check_manifest
from stakes.methods import StructGuard
from stakes.runs.folder import checkpoint_beside
from stakes.runs.record import Request, record
from stakes.training import checkpoint

METHOD = StructGuard(max_steps=30, probe_batch=16)
EARLIER = StructGuard(max_steps=1, probe_batch=16)
EPOCHS = 3


def request() -> Request:
    """What every run is asked for; without data to score on, most of its time is its writing."""
    demo.EPOCHS = EPOCHS
    splits = load_data("digits", size=demo.SIZE)
    network = demo.train(splits.train, splits.class_names)
    forget = ForgetSet.random(splits.train, demo.FORGOTTEN, 0)
    return Request(METHOD, network, forget, Anchors.load("digits"))


def child(asked: Request, out: Path, phase: Path) -> int:
    """Begin a run in a process of its own, which notes its phase in a file; gives its number."""
    number = os.fork()
    if number == 0:
        try:
            record(asked, out, lambda name, *rest: void(phase.write_text(name)))
            phase.write_text("done")
        finally:
            os._exit(0)
    return number


def void(_: object) -> None:
    """Take anything, give nothing."""


def main() -> None:
    """Run the storm and print what became of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint.EVERY = 0.2
    draw, asked = random.Random(options.seed), request()
    root = Path(tempfile.mkdtemp(prefix="kill-storm-"))
    record(asked, root / "whole")  # what is imported on the way counts for none
    begun = time.monotonic()
    expected = record(asked, root / "whole")["unlearned_digest"]
    length = time.monotonic() - begun
    record(replace(asked, method=EARLIER), root / "earlier")
    phases: Counter[str] = Counter()
    runs = same = whole = between = 0
    while phases.total() < options.kills:
        runs += 1
        out = root / f"run-{runs}"
        if runs % 2:
            shutil.copytree(root / "earlier", out)  # to be replaced
        for _ in range(draw.randint(1, 8)):
            phase = root / "phase"
            phase.write_text("begin")
            number = child(asked, out, phase)
            late = draw.random() < 0.5  # near the end, where files are written and renamed
            time.sleep(length * (draw.gauss(0.95, 0.1) if late else draw.uniform(0, 1)))
            os.kill(number, signal.SIGKILL)
            killed = os.waitpid(number, 0)[1] == signal.SIGKILL
            phases[phase.read_text()] += killed
            length *= 1.03 if killed else 0.85  # other work on the machine comes and goes
        between += checkpoint_beside(out).exists()
        row = record(asked, out)
        same += row["unlearned_digest"] == expected
        whole += check_manifest(out)
        print(f"{phases.total()} kills, {runs} runs, {same} with the same bits", flush=True)
    known = {"phase", "whole", "earlier", *(f"run-{i}" for i in range(1, runs + 1))}
    leftovers = [path.name for path in root.iterdir() if path.name not in known]
    told = {
        "kills": phases.total(), "by phase": dict(phases), "runs": runs, "same bits": same,
        "whole": whole, "with something unfinished before the last run": between,
        "leftovers": leftovers, "seconds": round(time.monotonic() - begun),
    }  # fmt: skip
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
