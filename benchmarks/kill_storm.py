"""A storm of kills: runs ended by SIGKILL at random moments, each then finished by the same run.

    nice python benchmarks/kill_storm.py --kills 100

A small network learns digits and forgets four of them, again and again, in folders of their own and
over earlier results. A run is killed up to eight times, and then left to finish. A third of the
kills come at any moment, a third near the end, and a third right before one of the operations by
which the result is put in its place (a file or folder renamed or removed), drawn at random. It
prints how many kills there were, in which phase, how many runs were finished to the bits of one
that nobody disturbed, and what lies in the folders that is no result; it fails where a run was not.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
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

METHOD = StructGuard(criterion="exact", max_steps=200, probe_batch=16)  # it settles from 75 to 140
EARLIER = StructGuard(max_steps=1, probe_batch=16)
EPOCHS, FORGOTTEN = 3, 4
ON_NAMES = {"os.rename", "os.remove", "os.rmdir"}
LAST = "looking for traces"  # what is left after it is to write


def request() -> Request:
    """What every run is asked for; without data to score on, most of its time is its writing."""
    demo.EPOCHS = EPOCHS
    splits = load_data("digits", size=demo.SIZE)
    network = demo.train(splits.train, splits.class_names)
    forget = ForgetSet.random(splits.train, FORGOTTEN, 0)
    return Request(METHOD, network, forget, Anchors.load("digits"))


class Watch:
    """Knows the phase of a run and, once it writes, counts its operations on names.

    Args:
        file: which the phase is noted in; none of a run that is not to be killed.
        last: the number of the operation right before which the process kills itself; 0: none.
    """

    def __init__(self, file: Path | None = None, last: int = 0) -> None:
        self.phase, self.count, self._file, self._last = "begin", 0, file, last

    def __call__(self, name: str, done: int, total: int, note: str = "") -> None:
        """Take what a run says of its progress."""
        settling = name == "unlearning" and total < METHOD.max_steps
        self.note("settling" if settling else "writing" if (name, done) == (LAST, 1) else name)

    def note(self, phase: str) -> None:
        """Note a phase where a parent reads it."""
        if phase != self.phase and self._file is not None:
            self._file.write_text(phase)
        self.phase = phase

    def operation(self, event: str, _: object) -> None:
        """Count an operation on a name; for :func:`sys.addaudithook`."""
        if event in ON_NAMES and self.phase == "writing":
            self.count += 1
            if self.count == self._last:
                assert self._file is not None
                self._file.write_text(f"operation {self.count}")
                os.kill(os.getpid(), signal.SIGKILL)


def child(asked: Request, out: Path, phase: Path, last: int) -> int:
    """Begin a run in a process of its own, which notes its phase in a file; gives its number."""
    number = os.fork()
    if number == 0:
        watch = Watch(phase, last)
        sys.addaudithook(watch.operation)
        try:
            record(asked, out, watch)
            watch.note("done")
        finally:
            os._exit(0)
    return number


def operations(asked: Request, out: Path) -> int:
    """How many operations on names a run makes while it writes."""
    watch = Watch()
    sys.addaudithook(watch.operation)
    record(asked, out, watch)
    watch.phase = "begin"  # the hook stays, and counts no more
    return watch.count


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
    written = operations(asked, root / "earlier")  # over an earlier result there are most
    shutil.rmtree(root / "earlier")
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
            kind = draw.choice(("any", "late", "operation"))
            number = child(asked, out, phase, draw.randint(1, written) * (kind == "operation"))
            if kind != "operation":
                share = draw.uniform(0, 1) if kind == "any" else draw.gauss(0.95, 0.1)
                time.sleep(length * share)
                os.kill(number, signal.SIGKILL)
            killed = os.waitpid(number, 0)[1] == signal.SIGKILL
            phases[phase.read_text()] += killed
            if kind != "operation":  # other work on the machine comes and goes
                length *= 1.03 if killed else 0.85
        between += checkpoint_beside(out).exists()
        row = record(asked, out)
        same += row["unlearned_digest"] == expected
        whole += check_manifest(out)
        print(f"{phases.total()} kills, {runs} runs, {same} with the same bits", flush=True)
    known = {"phase", "whole", "earlier", *(f"run-{i}" for i in range(1, runs + 1))}
    leftovers = [path.name for path in root.iterdir() if path.name not in known]
    files = {path.name for path in (root / "whole").iterdir()}
    for out in root.glob("run-*"):
        leftovers += [f"{out.name}/{path.name}" for path in out.iterdir() if path.name not in files]
    summary = {
        "kills": phases.total(), "by phase": dict(phases), "runs": runs, "same bits": same,
        "whole": whole, "with something unfinished before the last run": between,
        "leftovers": leftovers, "seconds": round(time.monotonic() - begun),
    }  # fmt: skip
    print(json.dumps(summary, indent=1))
    sys.exit(not same == whole == runs or bool(leftovers))


if __name__ == "__main__":
    main()
