"""Layers that the original and the live network share pass once, and nothing else changes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import CLASSES, Tiny, blobs
from stakes import Classifier, ForgetSet
from stakes.methods import StructGuard
from stakes.training.micro import passing_at_most
from stakes.training.sharding import sharded
from stakes.training.shared import SharedLayers


class InPlace(Tiny):
    """Changes the outputs of its early modules in place."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x += 0.5
        return self.fc(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))


class OneReLU(Tiny):
    """Calls one module before and after the layers that are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.fc(self.relu(self.bn2(self.conv2(x))).mean((2, 3)))


class Skip(Tiny):
    """What is trained reads two outputs of what is not."""

    def forward(self, x: Tensor) -> Tensor:
        early = self.conv1(x)
        x = torch.relu(self.bn1(early))
        x = torch.relu(self.bn2(self.conv2(x))) + early[:, :, ::2, ::2]
        return self.fc(x.mean((2, 3)))


class Prompt(Tiny):
    """Reads a weight of its own, which is trained, before its first layer, which is not."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.prompt)


class Attention(Tiny):
    """Attention reads the weights of a part of it that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.after = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.relu(self.bn1(self.conv1(x))).flatten(2).mT
        return self.fc(self.after(self.attention(tokens, tokens, tokens)[0]).mean(1))


class Pair(nn.Module):
    """Returns two tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Pairs(Tiny):
    """One of its early modules returns two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.pair(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.bn2(self.conv2(x + y))).mean((2, 3)))


def networks(network: nn.Module, still: tuple[str, ...]) -> tuple[Classifier, Classifier]:
    """An original, and its copy in which the parts called ``still`` are not trained."""
    original = Classifier.wrap(network, class_names=CLASSES, input_size=8)
    live = original.copy()
    for name in still:
        live.body.get_submodule(name).requires_grad_(False)
    return original.requires_grad_(False), live


def changed(live: Classifier, seed: int = 3) -> None:
    """Change everything that is trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in live.parameters():
            if weight.requires_grad:
                weight += torch.randn(weight.shape, generator=generator) / 4


def convolutions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of every convolution from now on."""
    seen: list[int] = []
    compute = F.conv2d

    def counted(images: Tensor, *args: Any, **more: Any) -> Tensor:
        seen.append(len(images))
        return compute(images, *args, **more)

    monkeypatch.setattr(F, "conv2d", counted)
    return seen


EARLY = ("conv1", "bn1")


@pytest.mark.parametrize(
    ("kind", "still", "conv1_passes"),
    [
        (Tiny, EARLY, 1),
        (InPlace, EARLY, 1),
        (OneReLU, EARLY, 1),
        (Skip, EARLY, 1),
        (Pairs, EARLY, 1),
        (Attention, EARLY, 1),
        (Prompt, EARLY, 2),  # all it computes depends on what is trained
        (Tiny, (), 2),
        (Tiny, ("conv2", "bn2"), 2),  # only what comes first is shared
    ],
)
def test_both_networks_give_what_they_give_alone(
    kind: type[Tiny], still: tuple[str, ...], conv1_passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    original, live = networks(kind(), still)
    images = torch.rand(5, 3, 8, 8)
    shared = SharedLayers(original, live, images[0])
    changed(live)

    expected = [network.features(images) for network in (original, live)]
    expected[1].square().sum().backward()
    gradients = [weight.grad for weight in live.parameters()]
    live.zero_grad()
    seen = convolutions(monkeypatch)
    outputs = shared.outputs(images)
    found = [shared.features(network, images, outputs) for network in (original, live)]
    found[1].square().sum().backward()

    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    for weight, gradient in zip(live.parameters(), gradients, strict=True):
        assert weight.grad is gradient is None or torch.equal(weight.grad, gradient)
    late = 0 if kind is Attention else 2
    assert len(seen) == conv1_passes + late
    assert torch.equal(live.features(images), expected[1])  # nothing is left replaced


def test_a_weight_that_attention_reads_of_its_part_is_trained() -> None:
    original, live = networks(Attention(), EARLY)
    live.body.attention.requires_grad_(False)
    live.body.attention.out_proj.requires_grad_(True)
    images = torch.rand(5, 3, 8, 8)
    shared = SharedLayers(original, live, images[0])
    changed(live)
    assert torch.equal(shared.features(live, images, shared.outputs(images)), live.features(images))


@pytest.mark.parametrize("kind", [Tiny, InPlace, OneReLU, Skip])
def test_passes_in_parts_share_too(kind: type[Tiny], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    original, live = networks(kind(), EARLY)
    images = torch.rand(5, 3, 8, 8)
    with passing_at_most(2):
        shared = SharedLayers(original, live, images[0])
    changed(live)
    whole = shared.outputs(images)
    expected = [shared.features(network, images, whole) for network in (original, live)]
    expected[1].square().sum().backward()
    gradients = [weight.grad for weight in live.parameters()]
    live.zero_grad()
    with passing_at_most(2):
        seen = convolutions(monkeypatch)
        outputs = shared.outputs(images)
        assert seen == [2, 2, 1]  # by the first convolution alone, each image once
        found = [shared.features(network, images, outputs) for network in (original, live)]
        assert max(seen) == 2
        assert len(seen) == 3 + 6
        found[1].square().sum().backward()
    for one, other in zip(whole, outputs, strict=True):
        torch.testing.assert_close(other, one)
        assert other.dtype == one.dtype
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one)
    for weight, gradient in zip(live.parameters(), gradients, strict=True):
        if gradient is None:
            assert weight.grad is None
        else:
            torch.testing.assert_close(weight.grad, gradient)


def test_nothing_is_shared_in_train_mode_or_where_weights_are_divided() -> None:
    original, live = networks(Tiny(), EARLY)
    image = torch.rand(3, 8, 8)
    assert SharedLayers(original, live, image).works
    with sharded():
        assert not SharedLayers(original, live, image).works
    assert not SharedLayers(original, live.train(), image).works


@pytest.mark.parametrize(
    ("criterion", "given"), [("exact", False), ("deep", False), ("exact", True), ("views", True)]
)
def test_a_run_ends_with_the_same_bits_as_without(
    criterion: Any, given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    network = Classifier.load(
        "stakes:cifar_resnet20", weights="random", class_names=CLASSES, input_size=8
    )
    forget = ForgetSet.from_images(images, torch.arange(6) % len(CLASSES))
    surrogates = blobs(12, 2)[0] if given else None
    settings = StructGuard(
        criterion=criterion, max_steps=3, probe_batch=16, cohorts=2, probes="mixed"
    )

    def run() -> tuple[str, list[int]]:
        with pytest.MonkeyPatch.context() as counting:
            seen = convolutions(counting)
            digest = settings(network, forget, seed=0, surrogates=surrogates).classifier.digest()
        return digest, seen

    shared, passes = run()
    monkeypatch.setattr(SharedLayers, "works", False)
    plain, all_passes = run()
    assert shared == plain
    assert sum(passes) < sum(all_passes)
