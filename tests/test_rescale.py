"""The script that writes a network which computes the same from larger weights."""

import pytest
import torch

from scripts import benchmark
from stakes import Classifier


@pytest.mark.parametrize("factor", [3.0, 1 / 3])
def test_a_rescaled_network_answers_as_before_and_takes_other_steps(tmp_path, factor):
    torch.manual_seed(0)
    before = Classifier.load("stakes:cifar_resnet20", weights="random", num_classes=10)
    images = torch.rand(32, 3, 32, 32)
    before.train()(images)  # statistics that are not 0 and 1
    before.eval().save(tmp_path / "before")
    given = tmp_path / "before" / "model.safetensors"
    out = tmp_path / "scaled.safetensors"
    arguments = ["stakes:cifar_resnet20", str(given), str(out), "--by", str(factor)]
    benchmark("rescale").main(arguments)
    after = Classifier.load("stakes:cifar_resnet20", weights=out).eval()
    torch.testing.assert_close(after(images), before(images), atol=1e-3, rtol=1e-3)
    for name, weight in after.named_parameters():
        if weight.dim() == 4:
            torch.testing.assert_close(weight, factor * dict(before.named_parameters())[name])
    of_before, of_after = gradient(before, images), gradient(after, images)
    assert (factor * of_after - of_before).norm() < 0.05 * of_before.norm()


def gradient(network, images):
    """Of the first convolution, in double precision: a step of descent on images (n, 3, h, w)."""
    first = next(weight for weight in network.double().parameters() if weight.dim() == 4)
    return torch.autograd.grad(network.train()(images.double()).square().sum(), first)[0]
