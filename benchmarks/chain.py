"""One request after another: are the images of earlier ones still forgotten?

    python benchmarks/chain.py OUT --model stakes:cifar_resnet20 --weights resnet20-12fca82f.th \\
        --data ./cifar10 --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225

Each request forgets K random training images of the network that the one before it left. Images of
earlier requests are given to none of them again, as if they had been deleted; the training data
serves to score them. OUT gets a run folder for each request, and the script prints a line for each.
All options but these are those of ``stakes unlearn``. The same command resumes.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", help="left out where --model is a saved folder")
    parser.add_argument("--k", type=int, default=16, help="images a request")
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--draw", type=int, default=0, help="seed of the first request")
    asked, options = parser.parse_known_args(arguments)
    network = ["--model", asked.model]
    network += ["--weights", asked.weights] if asked.weights else []
    print("request  earlier images  recognised again  test accuracy  retained accuracy", flush=True)
    for number in range(asked.requests):
        folder = asked.out / f"request-{number + 1}"
        if not folder.exists():
            command = [sys.executable, "-m", "stakes", "unlearn", *network, *options]
            command += ["--forget", f"random:{asked.k}", "--seed", str(asked.draw + number)]
            subprocess.run([*command, "--out", str(folder), "--quiet"], check=True)
        row = json.loads((folder / "row.json").read_text(encoding="utf-8"))
        found = row.get("n_earlier_found", 0)
        again = row.get("n_earlier_recognised") or 0
        test, retained = row["acc_test"], row["acc_retain"]
        print(f"{number + 1:7} {found:15} {again:17} {test:14.2f} {retained:18.2f}", flush=True)
        network = ["--model", str(folder)]


if __name__ == "__main__":
    main()
