"""Forget images with a network of many classes, made by dividing those of CIFAR-10.

    python benchmarks/many_classes.py --data ./cifar10 --weights resnet20-12fca82f.th --draws 11 12

The training images are divided into ``--classes`` groups by k-means on the features of a network
of the ten classes. Each group is a class; a test image has the class of the nearest mean. A new
head is trained on these classes, the network forgets by the default method, and every draw prints
what that changed. It is no network of ImageNet: these classes were made, and many differ little.
"""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from stakes import Classifier, ForgetSet, StructGuard, evaluate, load_data
from stakes.data.images import ImageArray
from stakes.training.batches import Batches
from stakes.training.schedule import OneCycle
from stakes.training.steps import take_steps
from train_networks import in_memory

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPEC, SIDE, SCORED = "stakes:cifar_resnet20", 32, 5000
BATCH, PEAK, EPOCHS = 512, 0.02, 20
FOUND = ("forget_top2", "forget_true_probability", "foretold")


@torch.no_grad()
def features(network: Classifier, pixels: Tensor) -> Tensor:
    """(n, d) of pixels (n, 3, h, w), uint8."""
    return torch.cat([network.features(batch / 255) for batch in pixels.split(500)])


def with_head(network: Classifier, seen: Tensor, labels: Tensor, classes: int) -> Classifier:
    """The network with a new head, trained to tell the groups of the features (n, d) apart."""
    head = nn.Linear(seen.shape[1], classes)
    optimizer = torch.optim.Adam(head.parameters())
    order = Batches(len(labels), BATCH, torch.Generator().manual_seed(0))
    total = EPOCHS * order.per_epoch
    schedule = OneCycle(optimizer, PEAK, total)

    def terms(step: int) -> dict[str, Tensor]:
        batch = next(order)
        return {"fit": F.cross_entropy(head(seen[batch]), labels[batch])}

    for _ in take_steps(terms, optimizer, range(1, total + 1), schedule=schedule):
        pass
    names = [f"group {number}" for number in range(classes)]
    new = Classifier.load(SPEC, weights="random", mean=MEAN, std=STD, class_names=names)
    new.body.load_state_dict(network.body.state_dict())
    new.head.load_state_dict(head.state_dict())
    return new.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="a folder, or the name cifar10")
    parser.add_argument("--weights", required=True, type=Path, help="resnet20-12fca82f.th")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--draws", type=int, nargs="+", default=[0], help="seeds of random:K")
    parser.add_argument("--k", type=int, nargs="+", default=[16])
    parser.add_argument("--criteria", nargs="+", default=["exact", "deep"])
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = load_data(asked.data)
    assert data.test is not None
    old = Classifier.load(
        SPEC, weights=asked.weights, mean=MEAN, std=STD, class_names=data.class_names
    )
    pixels = [in_memory(images, SIDE).pixels for images in (data.train, data.test)]
    seen, new = (features(old, part) for part in pixels)
    means = MiniBatchKMeans(asked.classes, batch_size=4096, n_init=1, random_state=0)
    means.fit(seen.numpy())
    train, test = (
        ImageArray(part, means.predict(found.numpy()).tolist(), prefix=name)
        for name, part, found in zip(("train", "test"), pixels, (seen, new), strict=True)
    )
    torch.manual_seed(0)
    network = with_head(old, seen, train.labels, asked.classes)
    for k, criterion, draw in product(asked.k, asked.criteria, asked.draws):
        forget = ForgetSet.random(train, k, draw)
        result = StructGuard(criterion=criterion)(network, forget, anchors="head", seed=draw)
        row, _ = evaluate(
            network,
            result.classifier,
            forget,
            test=test,
            retain=train,
            eval_samples=SCORED,
            seed=draw,
            thumbnails=False,
        )
        changes = ", ".join(
            f"{name} {row[f'{key}_before']:.2f} {row[key] - row[f'{key}_before']:+.2f}"
            for name, key in (("retained", "acc_retain"), ("test", "acc_test"))
        )
        found = ", ".join(f"{key} {row[key]:.3g}" for key in FOUND)
        steps = result.history[-1]["step"]
        print(
            f"k {k}, {criterion}, draw {draw}: {changes}, {found}, {steps:.0f} steps, "
            f"{result.stop_reason}",
            flush=True,
        )


if __name__ == "__main__":
    main()
