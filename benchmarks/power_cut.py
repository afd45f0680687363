"""Power cuts: a run writes to a file system in a file, of which copies are taken and mounted.

    sudo python benchmarks/power_cut.py

A small network forgets four digits by ``stakes unlearn``, onto a small ext4 in a file, mounted as a
loop device. The raw file is copied at moments drawn from all operations of the run on its files
(the process is stopped right before one: to open, make, rename or remove), and at 20 moments from 0
to 40 s after its end, in which the kernel writes when it likes. A copy has what the file system has
handed to its disk by then: what a power cut leaves. Each copy is mounted: OUT is whole, or the same
command is given again, and must end with the same bits and leave nothing else.

It is done into a new folder, over an earlier result, and with the mount point itself as OUT. With
``--no-sync`` nothing is synced, to see that these copies would show it.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AFTER = (0, 0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 26, 32, 40)  # seconds
OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}
MIB = 64
EPOCHS, FORGOTTEN, SAVED_EVERY = 3, 4, 0.2
#: What is run: OUT within the mount point, and whether an earlier result is there.
KINDS = {
    "into a new folder": ("OUT", False),
    "over an earlier result": ("OUT", True),
    "the mount point as OUT": (".", False),
}


def words(place: Path, out: Path, seed: int) -> list[str]:
    """The command."""
    return [
        "unlearn", "--model", str(place / "network"), "--data", "digits", "--forget",
        f"random:{FORGOTTEN}", "--max-steps", "200", "--probe-batch", "16",
        "--eval-samples", "20", "--device", "cpu", "--quiet",
        "--overwrite", "--seed", str(seed), "--out", str(out),
    ]  # fmt: skip


@dataclass
class Disk:
    """A file system in a file, mounted."""

    image: Path
    mounted: Path

    def make(self) -> None:
        """Make it, empty."""
        self.image.unlink(missing_ok=True)
        with open(self.image, "wb") as file:
            file.truncate(MIB * 2**20)
        subprocess.run(["mkfs.ext4", "-q", self.image], check=True)

    def __enter__(self) -> "Disk":
        self.mounted.mkdir(exist_ok=True)
        subprocess.run(["mount", "-o", "loop", self.image, self.mounted], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", self.mounted], check=True)

    def copy(self, target: Path) -> None:
        """Copy the raw file until two copies are the same, so that none mixes two moments."""
        again = target.with_suffix(".again")
        while True:
            for path in (target, again):
                subprocess.run(["cp", "--sparse=always", self.image, path], check=True)
            if not subprocess.run(["cmp", "-s", target, again]).returncode:
                again.unlink()
                return


@dataclass
class Moments:
    """Operations on files below a folder; before some of them the process stops itself."""

    below: Path
    stops: Sequence[int] = ()
    count: int = field(default=0)

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        """For :func:`sys.addaudithook`."""
        if event not in OPERATIONS or not str(given[0]).startswith(str(self.below)):
            return
        self.count += 1
        if self.count in self.stops:
            os.kill(os.getpid(), signal.SIGSTOP)


def command(given: Sequence[str], moments: Moments, stopped: Callable[[], None]) -> int:
    """Run the command line in a process of its own; gives how many operations it made."""
    reading, writing = os.pipe()
    number = os.fork()
    if number == 0:
        code = 1
        try:
            sys.addaudithook(moments)
            code = run(given)
            os.write(writing, str(moments.count).encode())
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    while os.WIFSTOPPED(status := os.waitpid(number, os.WUNTRACED)[1]):
        stopped()
        os.kill(number, signal.SIGCONT)
    code = os.waitstatus_to_exitcode(status)
    with open(reading, "rb") as file:
        text = file.read()
    if code not in (0, 3):
        raise SystemExit(f"stakes ended with {code}")
    return int(text)


def run(given: Sequence[str]) -> int:
    """The command line, in this process."""
    from stakes.cli import commands

    return commands.main(given)


def prepare(place: Path, sync: bool) -> None:
    """Train the network; save the state of a run often."""
    if not sync:
        import stakes.files

        stakes.files.sync = lambda path: None  # before others import it
    import torch

    from stakes import demo
    from stakes.data.datasets import load_data
    from stakes.training import checkpoint

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    checkpoint.EVERY, demo.EPOCHS = SAVED_EVERY, EPOCHS
    splits = load_data("digits", size=demo.SIZE)
    demo.train(splits.train, splits.class_names).save(place / "network")


def digest(out: Path) -> str | None:
    """Of the network in a whole run folder; None where it is not whole."""
    from stakes.runs.earlier import whole

    return json.loads((out / "row.json").read_bytes())["unlearned_digest"] if whole(out) else None


def names(folder: Path) -> set[str]:
    """The files in a folder, at any depth, by their names."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def cuts(kind: str, place: Path, count: int, draw: random.Random) -> dict[str, Any]:
    """Run once, copy the disk meanwhile and afterwards, and see what each copy is worth."""
    inner, earlier = KINDS[kind]
    mounted = place / "disk"
    out, images = mounted / inner, list[Path]()
    disk = Disk(place / "image", mounted)

    def fresh() -> None:
        disk.make()
        if earlier:
            with disk:
                command(words(place, out, 1), Moments(place / "nothing"), lambda: None)

    def copied() -> None:
        images.append(place / f"copy-{len(images):03}")
        disk.copy(images[-1])

    fresh()
    with disk:
        made = command(words(place, out, 0), Moments(mounted), lambda: None)
        expected, files = digest(out), names(mounted)
    fresh()
    with disk:
        stops = sorted(draw.sample(range(1, made + 1), min(count, made)))
        command(words(place, out, 0), Moments(mounted, stops), copied)
        before, end = len(images), time.monotonic()
        for seconds in AFTER:
            time.sleep(max(0.0, end + seconds - time.monotonic()))
            copied()
    found = [state_of(image, place, inner, expected, files) for image in images]
    return {
        "operations": made,
        "before the end": dict(Counter(found[:before])),
        "after the end": dict(Counter(found[before:])),
    }


def state_of(image: Path, place: Path, inner: str, expected: str | None, files: set[str]) -> str:
    """What became of a copy."""
    mounted = place / "disk"
    out = mounted / inner
    with Disk(image, mounted):
        found = digest(out)
        if found == expected:
            state = "whole"
        elif found is None and (out / "manifest.json").exists():
            state = "broken"  # the manifest is last: with it, all is to be there
        else:
            state = "resumed" if list(mounted.rglob("state-*.pt")) else "begun anew"
        if state in ("resumed", "begun anew"):
            command(words(place, out, 0), Moments(place / "nothing"), lambda: None)
            if digest(out) != expected or names(mounted) != files:
                state = f"{state}, and it ended otherwise"
    image.unlink()
    return state


def main() -> None:
    """Cut the power, and print what was left."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=int, default=20, help="moments before the end")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of moments")
    parser.add_argument("--no-sync", action="store_true", help="sync nothing")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("only root can mount a loop device: run it with sudo")
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="power-cut-") as folder:
        place = Path(folder)
        prepare(place, not options.no_sync)
        summary = {kind: cuts(kind, place, options.before, draw) for kind in KINDS}
    print(json.dumps(summary, indent=1))
    states = {
        state
        for one in summary.values()
        for part in ("before the end", "after the end")
        for state in one[part]
    }
    sound = states <= {"whole", "resumed", "begun anew"}
    sound = sound and all(set(one["after the end"]) == {"whole"} for one in summary.values())
    sys.exit(not sound)


if __name__ == "__main__":
    main()
