"""Images made from BatchNorm statistics: what is matched, and what comes of it."""

import pytest
import torch
from torch import nn

from stakes import Classifier, InputError, StructGuard
from stakes.anchors.anchors import Anchors
from stakes.data.augment import mixed
from stakes.methods import probing
from stakes.methods.structguard.objective import Objective
from stakes.methods.task import Task
from stakes.training.inversion import Whitening, inverted
from stakes.training.moments import has_statistics

pytestmark = pytest.mark.slow


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def head_anchors(classifier: Classifier) -> Anchors:
    return Anchors.from_head(classifier.head.weight, classifier.class_names)


class Blobs(nn.Module):
    """Convolutions with BatchNorm, for images of 8 x 8 pixels in four classes."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), norm(16), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, 2, padding=1), norm(16), nn.ReLU())
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))


def make_images(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images, each class with a colour of its own and a bright side."""
    labels = torch.arange(count) % 4
    colours = torch.tensor([[0.8, 0.3, 0.2], [0.2, 0.7, 0.3], [0.3, 0.2, 0.8], [0.7, 0.7, 0.2]])
    ramp = torch.linspace(0.6, 1.0, 8).reshape(1, 1, 1, 8)
    noise = nn.functional.interpolate(torch.rand(count, 3, 3, 3, generator=generator), 8)
    return (colours[labels][:, :, None, None] * ramp + 0.2 * noise).clamp(0, 1), labels


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Blobs()
        images, labels = make_images(256, seeded(1))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
    return network.eval().requires_grad_(False)


def distance(network: nn.Module, images: torch.Tensor) -> float:
    """How far the statistics of the layers' inputs are from the kept ones, layer by layer."""
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    far = []

    def check(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        x, total = inputs[0], 0.0
        for channel in range(x.shape[1]):
            values = x[:, channel].double()
            mean, std = values.mean(), values.std(correction=0)
            kept_mean = module.running_mean[channel].double()
            kept_std = module.running_var[channel].double().sqrt()
            total += float(((mean - kept_mean) ** 2 + (std - kept_std) ** 2) / kept_std**2)
        far.append(total / x.shape[1])

    hooks = [layer.register_forward_pre_hook(check) for layer in layers]
    network(images)
    for hook in hooks:
        hook.remove()
    return sum(far) / len(far)


def test_coefficients_have_unit_variance_and_hold_the_image():
    smooth = nn.functional.interpolate(
        torch.rand(200, 3, 4, 4, generator=seeded()), 8, mode="bilinear"
    )
    grey = smooth.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    for images in (smooth, grey, smooth[:1]):
        whitening = Whitening(images)
        coefficients = whitening.coefficients(images)
        assert coefficients.shape == (len(images), 3, 8, 5, 2)
        assert torch.allclose(whitening.images(coefficients), images, atol=1e-3)
    coefficients = Whitening(smooth).coefficients(smooth)
    energy = coefficients.square().sum(-1).mean((0, 1))
    assert torch.allclose(energy, torch.ones_like(energy), atol=1e-3)
    across = torch.view_as_complex(coefficients).permute(1, 0, 2, 3)[:, :, 0, 0].real
    assert torch.corrcoef(across).fill_diagonal_(0).abs().max() < 0.3


def test_the_statistics_are_matched_and_the_classes_seen(network):
    few, labels = make_images(16, seeded(5))
    start = mixed(few, 96, seeded(2), labels=labels)
    targets = torch.arange(96) % 4
    seen = []
    made = inverted(
        network, start, targets, Whitening(few), steps=60, generator=seeded(),
        batch_size=64, progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert made.shape == start.shape
    assert made.min() >= 0
    assert made.max() <= 1
    assert distance(network, made[:64]) < 0.25 * distance(network, start[:64])
    assert (network(made).argmax(1) == targets).float().mean() > 0.9
    assert (network(start).argmax(1) == targets).float().mean() < 0.5
    assert seen == [(n, 120) for n in range(121)]


def test_the_same_seed_gives_the_same_images_and_the_network_stays(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    few, _ = make_images(8, seeded(5))
    arguments = (network, few, torch.arange(8) % 4, Whitening(few))
    first, again = (inverted(*arguments, steps=4, generator=seeded(3)) for _ in range(2))
    other = inverted(*arguments, steps=4, generator=seeded(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_hooks_are_gone_after_an_error(network):
    wide = make_images(4, seeded())[0].double()  # the weights are not
    with pytest.raises(RuntimeError):
        inverted(network, wide, torch.arange(4), Whitening(wide), steps=1, generator=seeded())
    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("norm", "found"),
    [
        (nn.BatchNorm2d, True),
        (lambda width: nn.BatchNorm2d(width, track_running_stats=False), False),
        (lambda width: nn.GroupNorm(2, width), False),
    ],
)
def test_which_networks_have_statistics(norm, found):
    network = Blobs(norm)
    assert has_statistics(network) is found
    if not found:
        few, labels = make_images(4, seeded())
        with pytest.raises(ValueError, match="statistics"):
            inverted(network, few, labels, Whitening(few), steps=1, generator=seeded())


def plain(width: int) -> nn.Module:
    """No normalisation at all."""
    return nn.Identity()


@pytest.mark.parametrize(
    ("norm", "settings", "kind"),
    [
        (nn.BatchNorm2d, {}, "mixed"),
        (nn.BatchNorm2d, {"criterion": "views"}, "inverted"),
        (nn.BatchNorm2d, {"probes": "inverted"}, "inverted"),
        (nn.BatchNorm2d, {"probes": "mixed", "criterion": "views"}, "mixed"),
        (plain, {"criterion": "views"}, "mixed"),
    ],
)
def test_probes_are_mixtures_of_what_was_chosen(norm, settings, kind, forget, monkeypatch):
    monkeypatch.setattr(probing, "INVERTED", 24)
    monkeypatch.setattr(probing, "INVERSION_STEPS", 2)
    network = Blobs(norm)
    classifier = Classifier.wrap(network, input_size=8)
    method = StructGuard(**settings)
    phases = []
    run = Task(
        classifier, forget, head_anchors(classifier), progress=lambda *note: phases.append(note[:3])
    )
    objective = Objective(method, run)
    assert objective.probes.kind == kind
    images, _, _ = objective.probes._mixed
    assert len(images) == (24 if kind == "inverted" else len(forget))
    assert phases == ([("probes", n, 2) for n in range(3)] if kind == "inverted" else [])


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 10), (1.0, 40)])
def test_a_share_of_the_probes_is_of_the_images_themselves_where_copies_go(
    share, count, forget, monkeypatch
):
    monkeypatch.setattr(probing, "TURNED", share)
    classifier = Classifier.wrap(Blobs(nn.BatchNorm2d), input_size=8)
    method = StructGuard(criterion="views", probes="mixed", probe_batch=40)
    objective = Objective(method, Task(classifier, forget, head_anchors(classifier)))
    monkeypatch.setattr(probing, "rotate_recolour", lambda images, generator: 2 + 0 * images)
    monkeypatch.setattr(probing, "perturb_pixels", lambda images, generator: images / 2)
    images = objective.probes.draw().images
    strange = (images == 1).flatten(1).all(1)
    assert int(strange.sum()) == count
    assert (images[~strange] <= 0.5).all()


def test_probes_are_neither_turned_nor_altered_where_the_images_alone_go(forget, monkeypatch):
    classifier = Classifier.wrap(Blobs(nn.BatchNorm2d), input_size=8)
    for name in ("rotate_recolour", "perturb_pixels"):
        monkeypatch.setattr(probing, name, lambda *_: pytest.fail("changed"))
    method = StructGuard(probe_batch=40)
    objective = Objective(method, Task(classifier, forget, head_anchors(classifier)))
    assert len(objective.probes.draw().images) == 40


def test_a_network_without_statistics_is_refused(forget):
    network = Blobs(plain)
    classifier = Classifier.wrap(network, input_size=8)
    with pytest.raises(InputError, match="mixed"):
        StructGuard(probes="inverted")(classifier, forget, anchors="head")
