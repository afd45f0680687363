"""Train the digits network of ``stakes demo``, and once more without the images to forget.

    python benchmarks/train_digits.py OUT

OUT gets the network, ``all``, and for each draw D a reference to compare unlearning with: a network
trained without the images that ``stakes unlearn --forget random:16 --seed D`` forgets, from another
seed, ``without-random-16-draw-D``. Seconds for each; a network that is there is not trained again.

    stakes bench digits-retrained --out RUNS --set networks=OUT
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from stakes.data.datasets import load_data
from stakes.data.forget_words import parse_forget
from stakes.data.images import ImageArray
from stakes.demo import SIZE, train
from training import accuracy, without


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--forget", default="random:16", help="images to leave out")
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2], metavar="D")
    parser.add_argument("--seed", type=int, default=1, help="of the references; the network has 0")
    asked = parser.parse_args(arguments)
    splits = load_data("digits", size=SIZE)
    images, names = splits.train, splits.class_names
    assert splits.test is not None
    asked.out.mkdir(parents=True, exist_ok=True)
    shown = {"all": (images, 0)}
    for draw in asked.draws:
        places = without(images, parse_forget(asked.forget, images, names, draw))
        rest = ImageArray((images.load(places) * 255).round().byte(), images.labels[places])
        shown[f"without-{asked.forget.replace(':', '-')}-draw-{draw}"] = (rest, asked.seed)
    for name, (given, seed) in shown.items():
        if (asked.out / name).exists():
            print(f"{name}: there already")
            continue
        classifier = train(given, names, seed)
        classifier.save(asked.out / name)
        known, new = accuracy(classifier, given), accuracy(classifier, splits.test)
        print(f"{name}: {known:.2f} % of {len(given)} training images, {new:.2f} % of test images")


if __name__ == "__main__":
    main()
