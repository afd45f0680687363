"""What the golden tests share: images to forget, and a network with BatchNorm to train by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn

from stakes import Classifier, ForgetSet
from stakes.data.images import ImageArray


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them together take as long as the rest of the inner loop."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


class Small(nn.Module):
    """Two convolutions without bias, as before BatchNorm in every ResNet; 8 features; a head.

    A bias there has no gradient in train mode but rounding, and what a method scales up from that
    (L2UL's importance) no two programs share.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


@pytest.fixture(scope="session")
def small(train_images: ImageArray, trained: Classifier) -> Classifier:
    """A trained network with BatchNorm; nobody may change it."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = Small(trained.num_classes)
    classifier = Classifier.wrap(network, class_names=trained.class_names, input_size=8)
    images, labels = train_images.load(range(len(train_images))), train_images.labels
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.02)
    classifier.train()
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(classifier(images), labels).backward()
        optimizer.step()
    return classifier.eval()


@pytest.fixture
def plain(small: Classifier) -> Classifier:
    """A copy of it to train by hand, in train mode."""
    return small.copy().train()


@pytest.fixture(scope="session")
def ten(train_images: ImageArray, small: Classifier) -> ForgetSet:
    """Ten recognised images of three classes, in the order in which every method takes them."""
    images = train_images.load(range(len(train_images)))
    known = small(images).argmax(1) == train_images.labels
    chosen = (known & (train_images.labels < 3)).nonzero()[:10, 0]
    return ForgetSet.from_indices(train_images, chosen.tolist()).in_one_order()


@pytest.fixture
def network(trained: Classifier) -> Classifier:
    """A tiny trained network with BatchNorm, in double precision: small steps stay exact."""
    return trained.copy().double()


@pytest.fixture
def normalising(network: Classifier) -> Classifier:
    """The same, normalising images, by other constants for each channel."""
    network.mean.copy_(torch.tensor([0.1, -0.1, 0.2]).view_as(network.mean))
    network.std.copy_(torch.tensor([0.5, 1.0, 1.5]).view_as(network.std))
    return network


@pytest.fixture
def retained(train_images, forget):
    """The retained images and labels, in the order in which a generator draws all of them."""

    def draw(generator):
        order = torch.randperm(len(train_images), generator=generator).tolist()
        places = [i for i in order if i not in forget.indices]
        return train_images.load(places), train_images.labels[places]

    return draw
