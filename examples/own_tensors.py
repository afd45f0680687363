"""Forget images that are in memory: tensors, numpy arrays, a torch Dataset.

    python examples/own_tensors.py

Images are 8-bit integers or floats in [0, 1], not normalised: (n, 3, h, w), (n, h, w, 3) or grey.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from stakes import Classifier, ForgetSet, StructGuard, evaluate


def main(epochs: int = 200, max_steps: int = 1000) -> dict:
    # What you have: arrays, and a network trained on them.
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) / 16).astype(np.float32)  # grey, in [0, 1]
    train, test = slice(0, 1300), slice(1300, None)
    network = trained(torch.tensor(images[train]), torch.tensor(labels[train]), epochs)

    # `input_size` is the side of the images. Pass `mean=` and `std=` if the network expects them.
    classifier = Classifier.wrap(network, input_size=8)
    forget = ForgetSet.from_indices((images[train], labels[train]), [3, 14, 159, 265])
    result = StructGuard(max_steps=max_steps)(classifier, forget, seed=0)

    # Data to score on may be a pair of arrays, or a torch Dataset of (image, label).
    held_out = TensorDataset(torch.tensor(images[test])[:, None], torch.tensor(labels[test]))
    row, evidence = evaluate(
        classifier, result.classifier, forget, test=held_out, retain=(images[train], labels[train])
    )
    for image in evidence["forget"]:
        print(image["name"], "was recognised as", image["before"], "- now", image["after"])
    print(f"test accuracy: {row['acc_test_before']:.1f} % -> {row['acc_test']:.1f} %")

    forget.save("forget.safetensors")  # for whoever audits the result
    plain_network = result.classifier.network()  # your nn.Module again, with the new weights
    assert type(plain_network) is type(network)
    return row


def trained(images: torch.Tensor, labels: torch.Tensor, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    colour = images[:, None].expand(-1, 3, -1, -1)
    for _ in range(epochs):
        loss = nn.functional.cross_entropy(network(colour), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


if __name__ == "__main__":
    main()
