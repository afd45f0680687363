"""What features, wrong answers and relearning say, against slow versions and known networks."""

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from stakes.evaluation.knowledge import (
    LINEAR_PROBES,
    answer_entropy,
    density,
    read_features,
    relearn_steps,
    rf_jsd,
)
from stakes.training.targets import second_choices


def clouds(count: int, seed: int, classes: int = 3, spread: float = 0.3):
    """Features around one corner a class, in turn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return 2 * torch.eye(5)[labels] + spread * torch.randn(count, 5, generator=generator), labels


@pytest.mark.parametrize("name", LINEAR_PROBES)
def test_a_class_that_the_features_still_show_is_read_whatever_the_head_says(name):
    features, labels = clouds(90, 0)
    own, truth = clouds(12, 1)
    reading = read_features(LINEAR_PROBES[name], features, labels, own, truth)
    assert reading == (100.0, 100.0, 67, 23)
    elsewhere = read_features(LINEAR_PROBES[name], features, labels, own, (truth + 1) % 3)
    assert elsewhere is not None
    assert elsewhere.forget == 0
    assert elsewhere.unseen == 100


def test_the_nearest_mean_one_by_one():
    features, labels = clouds(80, 0, spread=1.5)
    own, truth = clouds(20, 1, spread=1.5)
    means = [features[:60][labels[:60] == c].mean(0) for c in range(3)]

    def right(feature, label):
        return min(range(3), key=lambda c: float((feature - means[c]).norm())) == int(label)

    reading = read_features(LINEAR_PROBES["centroid"], features, labels, own, truth)
    assert reading is not None
    assert reading.forget == pytest.approx(100 * sum(map(right, own, truth)) / 20)
    assert reading.unseen == pytest.approx(100 * sum(map(right, features[60:], labels[60:])) / 20)
    assert 30 < reading.forget < 100


def test_the_linear_probe_does_not_depend_on_the_scale_of_a_feature():
    features, labels = clouds(80, 0, spread=1.5)
    own, truth = clouds(40, 1, spread=1.5)
    scale = torch.tensor([1e-3, 1.0, 1e3, 1e-2, 10.0])
    probe = LINEAR_PROBES["probe"]
    reading = read_features(probe, features, labels, own, truth)
    assert reading == read_features(probe, features * scale, labels, own * scale, truth)
    assert 30 < reading.forget < 100


def test_the_linear_probe_is_logistic_regression_to_the_end():
    features, labels = clouds(80, 0, spread=1.5)
    own, _ = clouds(40, 1, spread=1.5)
    reader = LINEAR_PROBES["probe"]().fit(features.numpy(), labels.numpy())
    mean, spread = features.double().mean(0), features.double().std(0, correction=0)
    shown, asked = ((part.double() - mean) / spread for part in (features, own))
    weight = torch.zeros(5, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(500):
        loss = torch.nn.functional.cross_entropy(shown @ weight + bias, labels, reduction="sum")
        slopes = torch.autograd.grad(loss + weight.square().sum() / 2, (weight, bias))
        with torch.no_grad():
            for parameter, slope in zip((weight, bias), slopes, strict=True):
                parameter -= 0.02 * slope
    expected = (asked @ weight + bias).softmax(1).detach()
    assert torch.from_numpy(reader.predict_proba(own.numpy())).sub(expected).abs().max() < 1e-3


def test_a_probe_needs_two_classes_and_those_of_the_forget_images():
    features, labels = clouds(40, 0)
    own, truth = clouds(4, 1)
    probe = LINEAR_PROBES["probe"]
    assert read_features(probe, features, torch.zeros_like(labels), own, 0 * truth) is None
    assert read_features(probe, features, labels, own, truth + 1) is None
    assert read_features(probe, features[:1], labels[:1], own[:1], truth[:1]) is None


def test_density_one_by_one_and_its_area():
    cosines = 1 - 0.05 * torch.rand(60, generator=torch.Generator().manual_seed(0)).double() ** 2
    pairs = density(cosines)
    quartiles = cosines.quantile(torch.tensor([0.25, 0.75]).double()).tolist()
    spread = min(float(cosines.std()), (quartiles[1] - quartiles[0]) / 1.34)
    width = 0.9 * spread * 60**-0.2

    def height(x):
        bells = [math.exp(-(((x - c) / width) ** 2) / 2) for c in cosines.tolist()]
        mirrored = [math.exp(-(((x - 2 + c) / width) ** 2) / 2) for c in cosines.tolist()]
        return sum(bells + mirrored) / (60 * width * math.sqrt(2 * math.pi))

    assert [y for _, y in pairs] == pytest.approx([height(x) for x, _ in pairs])
    xs, ys = (torch.tensor(column) for column in zip(*pairs, strict=True))
    assert float(torch.trapezoid(ys, xs)) == pytest.approx(1, abs=0.01)
    assert xs[-1] == 1
    assert xs[0] < cosines.min()


@pytest.mark.parametrize("cosines", [[1.0, 1.0, 1.0], [0.5], [-1.0, 1.0]])
def test_density_of_few_or_equal_cosines_is_finite(cosines):
    pairs = density(torch.tensor(cosines))
    assert all(math.isfinite(x) and math.isfinite(y) and y >= 0 for x, y in pairs)
    assert max(y for _, y in pairs) > 0
    assert min(x for x, _ in pairs) >= -1


def test_the_second_choice_is_that_of_wrong_classes_even_where_the_original_erred():
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert second_choices(logits, torch.tensor([0, 1])).tolist() == [1, 0]


def test_entropy_of_answers_by_hand():
    assert answer_entropy([1, 1, 1, 2]) == pytest.approx(0.25 * 2 + 0.75 * math.log2(4 / 3))
    assert answer_entropy([7]) == 0


def draws(seed, n, classes=4):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=generator)
    return logits, torch.randint(0, classes, (n,), generator=generator)


def test_rf_jsd_class_by_class_and_against_scipy():
    (answers, labels), (expected, unseen) = draws(0, 30), draws(1, 200)
    slow, library = [], []
    for c in sorted(set(labels.tolist())):
        means = []
        for logits, truth in ((answers, labels), (expected, unseen)):
            rows = [z for z, y in zip(logits.tolist(), truth.tolist(), strict=True) if y == c]
            shares = [[math.exp(v) / sum(map(math.exp, z)) for v in z] for z in rows]
            means.append([sum(column) / len(shares) for column in zip(*shares, strict=True)])
        p, q = means
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        slow.append(sum(
            sum(a * math.log2(a / m) for a, m in zip(part, middle, strict=True)) / 2
            for part in (p, q)
        ))  # fmt: skip
        library.append(jensenshannon(p, q, base=2) ** 2)
    found = rf_jsd(answers, labels, expected, unseen)
    assert found == pytest.approx(sum(slow) / len(slow), rel=1e-6)
    assert found == pytest.approx(sum(library) / len(library), rel=1e-6)


def test_rf_jsd_has_bounds_that_are_reached_and_needs_unseen_images_of_each_class():
    logits, labels = draws(2, 40)
    assert rf_jsd(logits, labels, logits, labels) == pytest.approx(0, abs=1e-12)
    sure = 200 * torch.eye(4)
    classes = torch.arange(4)
    assert rf_jsd(sure, classes, sure.roll(1, 0), classes) == pytest.approx(1)
    # half of the classes answered as expected: one half
    half = torch.cat([sure[:2], sure[2:].roll(1, 0)])
    assert rf_jsd(half, classes, sure, classes) == pytest.approx(0.5)
    assert rf_jsd(sure, classes, sure[:3], classes[:3]) is None
    assert rf_jsd(sure[:2], classes[:2], sure[:3], classes[:3]) == pytest.approx(0)


def by_hand(network, images, labels, step, limit):
    """Normalised gradient descent with a loop over parameters and backward()."""
    live = network.copy().eval()
    for steps in range(limit + 1):
        logits = live(images)
        if int((logits.argmax(1) == labels).sum()) >= 0.9 * len(labels):
            return steps
        live.zero_grad()
        torch.nn.functional.cross_entropy(logits, labels).backward()
        with torch.no_grad():
            weight = math.sqrt(sum(float((p**2).sum()) for p in live.parameters()))
            slope = math.sqrt(sum(float((p.grad**2).sum()) for p in live.parameters()))
            for p in live.parameters():
                p -= step * weight / slope * p.grad
    return limit + 1


def test_relearning_against_a_slow_version(classifier, forget):
    labels = (forget.labels + 1) % 4  # what it does not know
    for step in (0.01, 0.03):
        steps = relearn_steps(classifier, forget.images, labels, step=step, limit=60)
        assert steps == by_hand(classifier, forget.images, labels, step, 60)
        assert 1 < steps <= 60


def test_relearning_takes_up_to_thirty_steps_of_a_ten_thousandth(classifier, forget):
    labels, lead = torch.full_like(forget.labels, 3), 0.1
    with torch.no_grad():  # grey, a class of none of them, comes second by a little at most
        logits = classifier(forget.images)
        classifier.head.bias[3] += float((logits.amax(1) - logits[:, 3]).max())
    for less in (lead, 9.0):
        with torch.no_grad():
            classifier.head.bias[3] -= less
        steps = relearn_steps(classifier, forget.images, labels)
        assert steps == by_hand(classifier, forget.images, labels, 1e-4, 30)
        assert steps == 31 if less > lead else 1 < steps < 30


def test_relearning_counts_nothing_where_all_is_known_and_stops_at_its_limit(classifier, forget):
    assert relearn_steps(classifier, forget.images, forget.labels) == 0
    wrong = (forget.labels + 1) % 4
    assert relearn_steps(classifier, forget.images, wrong, step=1e-9, limit=3) == 4


@pytest.mark.parametrize(("wrong", "known"), [(1, True), (2, False)])
def test_nine_in_ten_are_recognised_again(trained, train_images, wrong, known):
    images = train_images.load(range(160))
    right = (trained(images).argmax(1) == train_images.labels).nonzero()[:10, 0]
    labels = train_images.labels[right].clone()
    labels[:wrong] = (labels[:wrong] + 1) % 4
    assert (relearn_steps(trained, images[right], labels) == 0) == known


def test_relearning_leaves_the_network_as_it_was(classifier, forget):
    classifier.requires_grad_(False)
    state = {name: value.clone() for name, value in classifier.state_dict().items()}
    labels = (forget.labels + 1) % 4
    assert relearn_steps(classifier, forget.images, labels, step=0.01) > 0  # frozen or not
    assert all(torch.equal(classifier.state_dict()[name], value) for name, value in state.items())
    assert not any(p.requires_grad or p.grad is not None for p in classifier.parameters())


def test_what_is_only_just_forgotten_comes_back_sooner_than_what_was_never_known(
    classifier, forget
):
    pushed = classifier.copy().eval()
    optimizer = torch.optim.SGD(pushed.parameters(), lr=0.01)
    while (pushed(forget.images).argmax(1) == forget.labels).any():
        optimizer.zero_grad()
        (-torch.nn.functional.cross_entropy(pushed(forget.images), forget.labels)).backward()
        optimizer.step()
    answers = pushed(forget.images).argmax(1)
    never = torch.tensor(
        [min({0, 1, 2, 3} - {int(a), int(b)}) for a, b in zip(answers, forget.labels, strict=True)]
    )
    back = relearn_steps(pushed, forget.images, forget.labels, step=0.003, limit=200)
    anew = relearn_steps(pushed, forget.images, never, step=0.003, limit=200)
    assert 0 < back < anew
