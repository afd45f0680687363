"""Large networks on one large GPU, or a few steps of them anywhere.

    python benchmarks/gpu.py OUT                                  # within 25 minutes
    python benchmarks/gpu.py OUT --steps 2 --device cpu --k 16    # anywhere
    python benchmarks/gpu.py OUT --processes 1 2 4                # strong scaling, too
    python benchmarks/gpu.py OUT --processes 2 4 --shard          # with divided weights
    python benchmarks/gpu.py OUT --recipe table2-cifar10 --set data=... --set weights=...

For ResNet-50, ViT-B/16 and ConvNeXt-T at 224 pixels with random weights: seconds a step, peak
memory and the share of forward and backward passes for each k. With --processes, the same run
divided among so many GPUs. With --recipe, that benchmark's tables are made in OUT/table in what is
left of the time; the same command goes on with them. It needs no data but the recipe's, of which
10,000 images of CIFAR-10 (24 MB) and the weights in 16 bits (22 MB) suffice, and no package but
those that stakes has. OUT gets costs.jsonl and costs.md.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from costs import cost, hardware
from stakes.runs.allocation import keep_freed_memory
from stakes.training import distributed, sharding

NETWORKS = ("timm:resnet50", "timm:vit_base_patch16_224", "timm:convnext_tiny")
KS = (16, 64, 256)
BUDGET = 25 * 60.0  # seconds


def main() -> None:
    keep_freed_memory()  # as commands do
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--k", nargs="+", type=int, default=KS)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--probe-batch", type=int, default=None)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--processes", nargs="*", type=int, default=())
    parser.add_argument("--shard", action="store_true")
    parser.add_argument("--recipe")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--budget", type=float, default=BUDGET)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.point:
        with distributed.joined(), sharding.sharded(asked.shard):  # alone, without torchrun
            found = cost(**json.loads(asked.point))
            if distributed.is_writer():
                print(json.dumps(found))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + asked.budget
    points = [(spec, k, 1) for k in sorted(asked.k) for spec in asked.networks]
    points += [(asked.networks[0], max(asked.k), count) for count in asked.processes]
    rows, on = [], hardware(asked.device)
    for point in points:
        rows += [measured(asked, *point, end - time.monotonic())]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (asked.out / "costs.jsonl").write_text(text, encoding="utf-8")
        (asked.out / "costs.md").write_text(table(rows, on), encoding="utf-8")
    print((asked.out / "costs.md").read_text(encoding="utf-8"))
    if asked.recipe:
        words = [
            sys.executable,
            "-m",
            "stakes",
            "bench",
            asked.recipe,
            "--out",
            str(asked.out / "table"),
        ]
        for setting in asked.settings:
            words += ["--set", setting]
        code, _, _ = run(words, end - time.monotonic(), shown=True)
        sys.exit(code)


def run(words: list[str], seconds: float, *, shown: bool = False) -> tuple[int, str, str]:
    """Exit code, output and errors of a command that has so many seconds."""
    if seconds <= 0:
        return 1, "", "left out, the time is up"
    try:
        ended = subprocess.run(
            words, capture_output=not shown, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return 1, "", f"stopped after {seconds:.0f} s, the time is up"
    return ended.returncode, ended.stdout or "", ended.stderr or ""


def measured(
    asked: argparse.Namespace, spec: str, k: int, processes: int, seconds: float
) -> dict[str, Any]:
    """One point, in a process of its own, so that its peak memory is its own."""
    point = {"spec": spec, "k": k, "side": asked.side, "steps": asked.steps}
    point |= {"device": asked.device}
    if asked.probe_batch:
        point["probe_batch"] = asked.probe_batch
    words = [__file__, str(asked.out), "--point", json.dumps(point)]
    if processes > 1:
        words += ["--shard"] * asked.shard
        words = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), *words]
    code, output, errors = run([sys.executable, *words], seconds)
    lines = [line for line in output.splitlines() if line.startswith("{")]
    row: dict[str, Any] = {"network": spec, "k": k, "processes": processes}
    if code == 0 and lines:
        row |= json.loads(lines[0])
    else:
        row["failed"] = (errors.strip() or "no output").splitlines()[-1][:200]
    print(json.dumps(row), flush=True)
    return row


def table(rows: list[dict[str, Any]], on: str) -> str:
    lines = [
        f"{on}",
        "",
        "| network | k | processes | seconds a step | peak memory, MiB | passes, % |",
    ]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        head = f"| {row['network']} | {row['k']} | {row['processes']} |"
        if "failed" in row:
            lines.append(f"{head} failed: {row['failed']} | | |")
        else:
            numbers = f" {row['seconds_step']:.3g} | {row['peak_memory_mb']:,.0f} |"
            lines.append(f"{head}{numbers} {row['share_passes']:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
