"""Make your own network forget the images in a folder.

    python examples/own_network_and_folder.py

`prepare` makes what you already have: folders of images and trained weights. Replace it with your
own paths. The same on the command line:

    stakes unlearn --model my_network.py:make --weights weights.safetensors \
        --data data/ --forget forget/ --out OUT
"""

import tempfile
from pathlib import Path

import safetensors.torch
import torch
from PIL import Image
from torch import nn

from stakes import Classifier, ForgetSet, StructGuard, evaluate, load_data

SIZE = 16  # pixels a side


def my_network() -> nn.Module:
    """Any network whose last layer is linear."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 16, 10),
    )  # fmt: skip


def main(folder: Path, epochs: int = 8, max_steps: int = 1000) -> dict:
    prepare(folder, epochs)

    # 1. The network, with the normalisation it was trained with (here: none).
    network = my_network()
    network.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    data = load_data(folder / "data", size=SIZE)
    classifier = Classifier.wrap(network, class_names=data.class_names, input_size=SIZE)

    # 2. The images to forget, each in a folder with the name of its class.
    forget = ForgetSet.from_folder(folder / "forget", data.class_names, size=SIZE)

    # 3. Unlearn, measure, save.
    result = StructGuard(max_steps=max_steps)(classifier, forget, seed=0)
    row, _ = evaluate(classifier, result.classifier, forget, test=data.test, retain=data.train)
    for key in ("acc_forget", "acc_test", "acc_retain"):
        print(f"{key}: {row[f'{key}_before']:.1f} % -> {row[key]:.1f} %")
    result.classifier.save(folder / "unlearned")  # weights with your network's tensor names
    return row


def prepare(folder: Path, epochs: int) -> None:
    """Digits as PNG files, eight of them to forget, and a network trained on them."""
    digits = load_data("digits", size=SIZE)
    for split, images in (("train", digits.train), ("test", digits.test)):
        for i, label in enumerate(images.labels.tolist()):
            place = folder / "data" / split / digits.class_names[label] / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            images.pil_image(i).save(place)
    for place in sorted((folder / "data" / "train").glob("3/*.png"))[:8]:
        copy = folder / "forget" / "3" / place.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(place).save(copy)
    torch.manual_seed(0)
    network = my_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    images, labels = digits.train.load(range(len(digits.train))), digits.train.labels
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(64):
            loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    safetensors.torch.save_file(network.state_dict(), folder / "weights.safetensors")


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp(prefix="stakes-")))
