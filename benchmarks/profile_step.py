"""Where a step goes: share of the passes, and the ten operations that take most of it.

    python benchmarks/profile_step.py                                    # a ResNet-20, 32 pixels
    python benchmarks/profile_step.py --network timm:resnet50 --side 224 --steps 1

The share is of processor seconds; the operations are those of torch.profiler, which takes the time
by the clock, so other work on the machine weighs on them.
"""

import argparse

from torch.profiler import ProfilerActivity, profile

from costs import cost, hardware
from stakes.runs.allocation import keep_freed_memory

TOP = 10


def main() -> None:
    keep_freed_memory()  # as commands do
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="stakes:cifar_resnet20")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    asked = parser.parse_args()
    seen = profile(activities=[ProfilerActivity.CPU])
    found = cost(asked.network, k=asked.k, side=asked.side, steps=asked.steps, within=seen)
    print(f"{asked.network}, {asked.side} pixels, k = {asked.k}. {hardware('cpu')}")
    print(
        f"{found['seconds_step']:.2f} s a step, of which forward and backward passes are "
        f"{found['share_passes']:.1f} %; at most {found['peak_memory_mb']:,.0f} MiB\n"
    )
    rows = sorted(seen.key_averages(), key=lambda row: -row.self_cpu_time_total)
    whole = sum(row.self_cpu_time_total for row in rows)
    print("| operation | calls | of the time, % |\n|---|---:|---:|")
    for row in rows[:TOP]:
        print(f"| {row.key} | {row.count} | {100 * row.self_cpu_time_total / whole:.1f} |")


if __name__ == "__main__":
    main()
