"""Divide the test images of a data set: half to score on, half as images that a service gets.

    python benchmarks/split_test.py ./cifar10 OUT

OUT gets ``data`` (``train``, linked, and half of ``test/CLASS``) and ``traffic``, the other half in
one folder, without their classes:

    stakes bench structguard-copies --out RUNS --set data=OUT/data --set public=OUT/traffic ...
"""

import argparse
import itertools
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    data, out = arguments.data.resolve(), arguments.out
    (out / "data").mkdir(parents=True)
    (out / "traffic").mkdir()
    (out / "data" / "train").symlink_to(data / "train")
    numbers = itertools.count()
    for folder in sorted((data / "test").iterdir()):
        scored = out / "data" / "test" / folder.name
        scored.mkdir(parents=True)
        images = sorted(folder.iterdir())
        for path in images[::2]:
            (scored / path.name).symlink_to(path)
        for path in images[1::2]:
            traffic = out / "traffic" / f"{next(numbers)}{path.suffix}"
            traffic.symlink_to(path)


if __name__ == "__main__":
    main()
