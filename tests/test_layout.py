"""The memory layout in which a network runs."""

import torch
from torch import nn

from stakes import Classifier


class Volume(nn.Module):
    """Has a convolution in three dimensions, as the lambda layers of timm do."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv3d(1, 2, (3, 3, 1), padding=(1, 1, 0))
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.conv3(self.conv2(self.conv1(x))[:, None])[:, 0]
        return self.head(x.mean((2, 3)))


class Viewing(nn.Module):
    """Views its images, and so needs the usual layout."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(48, 5)

    def forward(self, x):
        return self.head(x.view(len(x), -1))


def usual(network):
    return all(p.is_contiguous() for p in network.parameters())


def test_a_network_with_a_convolution_in_three_dimensions_keeps_the_usual_layout():
    network = Volume().eval()
    classifier = Classifier.wrap(network, input_size=8)
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(classifier(x), network(x))
    assert usual(classifier)


def test_a_layer_whose_backward_pass_corrupts_memory_keeps_the_usual_layout():
    def made(stride):
        return nn.Sequential(
            nn.Conv2d(3, 16, 1, stride),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 5),
        )

    assert not usual(Classifier.wrap(made(1), input_size=8))
    assert usual(Classifier.wrap(made(2), input_size=8))


def test_images_in_another_layout_are_brought_to_that_of_the_network():
    classifier = Classifier.wrap(Viewing(), input_size=4)
    x = torch.rand(2, 3, 4, 4)
    with torch.no_grad():
        last = classifier(x.contiguous(memory_format=torch.channels_last))
        assert torch.equal(last, classifier(x))
