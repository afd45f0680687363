import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.nn import functional as F

from stakes.models.classifier import Classifier
from stakes.models.networks import MODELS
from stakes.models.networks.resnets import Block
from stakes.models.weights import read_weights

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_logits_at_its_own_size(name):
    network = MODELS[name](7).eval()
    size = network.input_size
    assert network(torch.rand(2, 3, size, size)).shape == (2, 7)
    assert not any(key.startswith("input_size") for key in network.state_dict())


def test_sizes_are_those_of_the_literature():
    count = {name: sum(p.numel() for p in MODELS[name](10).parameters()) for name in MODELS}
    assert count["cifar_resnet20"] == 269_722
    assert count["cifar_resnet56"] == 853_018
    assert count["cifar_resnet18"] == 11_173_962
    assert count["cifar_resnet18_half"] == 2_797_610
    assert count["cifar_resnet50"] == 23_520_842
    assert 50_000 < count["digits_cnn"] < 100_000


def test_shortcut_without_parameters_against_an_obvious_version():
    block = Block(4, 8, 2).eval()
    torch.nn.init.zeros_(block.bn2.weight)  # leaves the shortcut alone
    x = torch.rand(2, 4, 6, 6)
    wanted = torch.zeros(2, 8, 3, 3)
    for channel in range(4):
        for row in range(3):
            for column in range(3):
                wanted[:, channel + 2, row, column] = x[:, channel, 2 * row, 2 * column]
    assert torch.equal(block(x), F.relu(wanted))


def test_cifar_resnet18_differs_from_torchvision_only_in_its_stem():
    ours, theirs = MODELS["cifar_resnet18"](10), torchvision.models.resnet18(num_classes=10)
    shapes = {k: v.shape for k, v in ours.state_dict().items()}
    other = {k: v.shape for k, v in theirs.state_dict().items()}
    assert shapes.keys() == other.keys()
    assert {k for k in shapes if shapes[k] != other[k]} == {"conv1.weight"}
    stem = ours.maxpool(ours.conv1(torch.rand(1, 3, 32, 32)))
    assert stem.shape == (1, 64, 32, 32), "the usual stem would leave 8x8"


def test_the_network_of_the_papers_code_keeps_the_pool_behind_its_small_stem():
    pooled, plain = MODELS["cifar_resnet18_pooled"](10), MODELS["cifar_resnet18"](10)
    plain.load_state_dict(pooled.state_dict())
    x = torch.rand(2, 3, 32, 32)
    stem = F.max_pool2d(F.relu(plain.eval().bn1(plain.conv1(x))), 3, stride=2, padding=1)
    assert stem.shape == (2, 64, 16, 16)
    for stage in (plain.layer1, plain.layer2, plain.layer3, plain.layer4):
        stem = stage(stem)
    assert torch.allclose(pooled.eval()(x), plain.fc(stem.mean((2, 3))), atol=1e-5)


def test_the_small_convnext_has_no_batchnorm_and_new_weights_by_seed():
    network = MODELS["cifar_convnext"](10)
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in network.modules())
    one, again, other = (
        Classifier.load("stakes:cifar_convnext", num_classes=10, seed=seed) for seed in (0, 0, 1)
    )
    assert one.digest() == again.digest() != other.digest()
    assert one.feature_width == 192


def test_half_the_width_halves_every_channel_and_nothing_else():
    half, full = MODELS["cifar_resnet18_half"](10).state_dict(), MODELS["cifar_resnet18"](10)
    assert half.keys() == full.state_dict().keys()
    for name, tensor in full.state_dict().items():
        wanted = [side // 2 if side >= 64 else side for side in tensor.shape]
        assert list(half[name].shape) == wanted, name


@pytest.mark.parametrize("size", [8, 16, 32])
def test_digits_network_takes_small_and_larger_images(size):
    assert MODELS["digits_cnn"](10)(torch.rand(2, 3, size, size)).shape == (2, 10)


def test_digits_network_learns_quickly():
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None].repeat(1, 3, 1, 1)
    labels = torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(0)
    network = Classifier.load("stakes:digits_cnn", input_size=8).network().train()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(3):
        for batch in torch.randperm(1400, generator=generator).split(64):
            optimiser.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimiser.step()
    with torch.no_grad():
        right = network.eval()(images[1400:]).argmax(1) == labels[1400:]
    assert right.float().mean() > 0.9


def images_of(archive: Path, per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
    found: dict[str, list[torch.Tensor]] = {name: [] for name in CLASSES}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).parent.name
            if not member.isfile() or len(found[name]) == per_class:
                continue
            data = tar.extractfile(member).read()
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32)
            found[name].append(torch.from_numpy(pixels / 255).permute(2, 0, 1))
            if all(len(images) == per_class for images in found.values()):
                break
    labels = torch.arange(10).repeat_interleave(per_class)
    return torch.stack([image for name in CLASSES for image in found[name]]), labels


@pytest.mark.parametrize(
    ("name", "file"),
    [("cifar_resnet20", "resnet20-12fca82f.th"), ("cifar_resnet56", "resnet56-4bfd9763.th")],
)
def test_public_weights_fit(name, file, shared):
    state = read_weights(shared / "weights" / file)
    fit = MODELS[name](10).load_state_dict(state)
    assert (fit.missing_keys, fit.unexpected_keys) == ([], [])


def test_public_resnet20_recognises_real_images(shared):
    weights = shared / "weights" / "resnet20-12fca82f.th"
    images, labels = images_of(shared / "cifar10" / "test.tar", per_class=20)
    classifier = Classifier.load(
        "stakes:cifar_resnet20", weights=weights, class_names=CLASSES, mean=MEAN, std=STD
    )
    with torch.no_grad():
        right = (classifier(images).argmax(1) == labels).float().mean()
        unnormalised = Classifier.load("stakes:cifar_resnet20", weights=weights)
        worse = (unnormalised(images).argmax(1) == labels).float().mean()
    assert right > 0.85
    assert worse < right
