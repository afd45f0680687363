"""A sweep that loses a worker, then its scheduler, against the same sweep on one machine.

    python benchmarks/cluster_storm.py OUT

Runs 12 cells one by one; then the same 12 on two Dask workers, one of which is killed once 3 cells
are done, and the scheduler once 6 are; then starts both anew and lets the same command go on. It
prints what happened, and fails where a row differs in anything but time, memory and date.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RECIPE = """
title = "Twelve small cells"
forget = "random:{k}"
k = [2, 4]
seeds = [0, 1, 2]
[common]
data = "digits"
eval_samples = 20
max_steps = 3
force = true
images = false
[[network]]
name = "digits"
model = "stakes:digits_cnn"
weights = "random"
[[method]]
method = "neggrad"
[[method]]
method = "random_label"
"""
#: What differs between two runs of one cell.
PASSING = ("seconds", "peak_memory", "date", "command")
HERE = ("127.0.0.1", 0)
START = 120.0  # seconds for a scheduler to listen, and for a worker to find it


def bench(recipe: Path, out: Path, *more: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "stakes", "bench", str(recipe), "--out", str(out), *more]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def finished(out: Path) -> int:
    records = [json.loads(path.read_text()) for path in (out / "cells").glob("*.json")]
    return sum(record["state"] == "finished" for record in records)


def rows(out: Path) -> list[dict[str, object]]:
    lines = (out / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith(PASSING)}
        for line in lines
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(HERE)
        return int(probe.getsockname()[1])


@contextmanager
def scheduler(port: int) -> "Iterator[subprocess.Popen[bytes]]":
    words = ["scheduler", "--host", HERE[0], "--port", str(port), "--no-dashboard"]
    with _dask(words) as process:
        end = time.monotonic() + START
        while not _answers(port) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        yield process


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HERE[0], port)) == 0


@contextmanager
def worker(port: int, *more: str) -> "Iterator[subprocess.Popen[bytes]]":
    words = ["worker", f"tcp://{HERE[0]}:{port}", "--nthreads", "1", "--no-nanny", *more]
    with _dask([*words, "--no-dashboard", "--death-timeout", f"{START:g}"]) as process:
        yield process


@contextmanager
def _dask(words: list[str]) -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(out: Path, count: int, process: "subprocess.Popen[str]") -> None:
    while finished(out) < count and process.poll() is None:
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    top = parser.parse_args().out
    top.mkdir(parents=True, exist_ok=True)  # begun before: what is there is not run again
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    recipe, serial, sweep = top / "recipe.toml", top / "serial", top / "sweep"
    recipe.write_text(RECIPE, encoding="utf-8")
    start = time.monotonic()
    print(bench(recipe, serial, "--jobs", "1").communicate()[1].splitlines()[-1])
    print(f"serial: {finished(serial)} cells in {time.monotonic() - start:.0f} s", flush=True)
    port = free_port()
    cluster = ("--cluster", f"tcp://{HERE[0]}:{port}")
    with scheduler(port) as lost, worker(port) as killed, worker(port):
        first = bench(recipe, sweep, *cluster)
        wait_for(sweep, 3, first)
        killed.send_signal(signal.SIGKILL)
        print(f"a worker killed after {finished(sweep)} cells", flush=True)
        wait_for(sweep, 6, first)
        lost.send_signal(signal.SIGKILL)
        print(f"the scheduler killed after {finished(sweep)} cells", flush=True)
        start = time.monotonic()
        lines = first.communicate()[1].splitlines()
        print(f"{time.monotonic() - start:.0f} s later, code {first.returncode}: {lines[-1]}")
    with scheduler(port), worker(port), worker(port):
        second = bench(recipe, sweep, *cluster)
        lines = second.communicate()[1].splitlines()
        print(f"second start, code {second.returncode}: {lines[-1]}")
    differing = [a["cell"] for a, b in zip(rows(serial), rows(sweep), strict=True) if a != b]
    print(f"{finished(sweep)} cells; rows that differ from the serial run: {len(differing)}")
    sys.exit(bool(differing) or finished(sweep) < finished(serial))


if __name__ == "__main__":
    main()
