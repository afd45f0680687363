"""Each method's own mathematics against slow, obvious versions."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stakes import Classifier, ForgetSet, InputError, evaluate
from stakes.methods import METHODS, lcodec, lotus, salun, ssd
from stakes.methods.lcodec import mean_activations
from stakes.methods.lotus import accuracy, gumbel_softmax
from stakes.methods.oracle import unlikelihood
from stakes.methods.retaining import CHECK_EVERY, half_cosine, in_first_pass
from stakes.methods.salun import salient
from stakes.methods.ssd import dampen
from stakes.methods.unsir import error_maximising
from stakes.models.networks.resnets import cifar_resnet20
from stakes.rows import Outcome
from stakes.training.fresh import fresh
from stakes.training.importance import squared_gradients
from stakes.training.loop import FORGOTTEN
from stakes.training.losses import deletion_ce

pytestmark = pytest.mark.slow

SMALL = {"retain_samples": 96, "retain_batch": 32}
NEEDY = sorted(name for name, kind in METHODS.items() if kind.needs_retain)


def terms_of(history):
    """The names of the loss terms, step by step."""
    return [{n.removeprefix("term_") for n in row if n.startswith("term_")} for row in history[1:]]


def loss_on(classifier, images, labels):
    with torch.no_grad():
        return float(F.cross_entropy(classifier(images), labels))


# the whole length


def test_every_step_is_done_even_when_all_is_forgotten_on_the_way(classifier, forget, train_images):
    method = METHODS["scrub"](lr=0.05, forget_batch=1, epochs=10, max_epochs=9, **SMALL)
    notes = []
    result = method(
        classifier,
        forget,
        retain=train_images,
        progress=lambda phase, done, total, note="": notes.append((phase, done, total)),
    )
    looks = [row for row in result.history if "forget_accuracy" in row]
    assert [row["step"] for row in result.history] == list(range(85))
    assert [row["step"] for row in looks] == [0, *range(CHECK_EVERY, 84, CHECK_EVERY), 84]
    assert looks[-2]["forget_accuracy"] == 0  # and yet it went on
    assert result.ending == FORGOTTEN
    steps = [(done, total) for phase, done, total in notes if phase == "unlearning"]
    assert steps == [(step, 84) for step in range(85)]


def test_steps_are_those_of_the_epochs_unless_cut_short(classifier, forget, train_images):
    def steps(**settings):
        method = METHODS["finetune"](epochs=2, **settings, **SMALL)
        return len(method(classifier, forget, retain=train_images).history) - 1

    assert (steps(), steps(max_steps=4), steps(max_steps=99)) == (6, 4, 6)


def test_the_stop_reason_says_how_much_is_still_known(classifier, forget, train_images):
    def run(**settings):
        return METHODS["finetune"](**settings, **SMALL)(classifier, forget, retain=train_images)

    whole, cut = run(epochs=4), run(epochs=4, max_steps=5)
    assert whole.stop_reason == "complete: all 12 steps done, 100 % of the images still recognised"
    assert cut.outcome is Outcome.BUDGET
    assert cut.stop_reason == "step budget: 5 steps done before every image was forgotten"


def test_divergence_is_told_with_its_step(classifier, forget, train_images):
    method = METHODS["finetune"](lr=100.0, batch_norm="eval", max_steps=30, **SMALL)
    result = method(classifier, forget, retain=train_images)
    step = int(result.history[-1]["step"]) + 1
    assert step < 30
    assert result.stop_reason == f"diverged: the loss is not finite at step {step}"


# Oracle and fine-tuning


def test_oracle_descends_on_what_is_retained_and_leads_away_from_the_rest(
    classifier, forget, train_images
):
    method = METHODS["oracle"](deletion_weight=0.3, max_steps=1, retain_samples=0, retain_batch=999)
    row = method(classifier, forget, retain=train_images).history[1]
    retained = [i for i in range(160) if i not in forget.indices]
    gained = loss_on(classifier, train_images.load(retained), train_images.labels[retained])
    with torch.no_grad():
        p = classifier(forget.images).softmax(1)[range(6), forget.labels]
    assert row["term_retention"] == pytest.approx(gained, rel=1e-4)
    assert row["term_deletion"] == pytest.approx(-0.3 * float((1 - p).log().mean()), rel=1e-4)


def test_unlikelihood_has_the_direction_of_ascent_and_a_length_that_follows_p():
    rows = [[12.0, 0.0, 1.0], [0.0, 0.5, 0.0], [-12.0, 0.0, 1.0]]
    logits = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(3, dtype=torch.long)
    (down,) = torch.autograd.grad(3 * unlikelihood(logits, labels), logits)
    (up,) = torch.autograd.grad(3 * deletion_ce(logits, labels), logits)
    p = logits.detach().softmax(1)[:, :1]
    assert torch.allclose(down, up * p / (1 - p), rtol=1e-6)
    assert (down[:, 0] - p[:, 0]).abs().max() < 1e-6
    assert up[0].norm() < 1e-4 < 1 < down[0].norm()  # certain: ascent does not move it
    assert down[2].norm() < 1e-4 < 1 < up[2].norm()  # long forgotten: ascent never ends


def test_oracle_goes_on_for_as_long_again_once_all_is_forgotten(classifier, forget, train_images):
    method = METHODS["oracle"](lr=0.01, settle_least=20, **SMALL)
    result = method(classifier, forget, retain=train_images)
    looks = {row["step"]: row["forget_accuracy"] for row in result.history if "drift" in row}
    first = next(step for step, known in looks.items() if known == 0)
    last = max(looks)
    assert result.ending == FORGOTTEN
    assert last >= first + max(20, first)
    assert len(result.history) == last + 1
    assert looks[last] == 0


# Retrain


def test_retrain_begins_with_fresh_weights_and_learns(classifier, forget, train_images):
    begun = METHODS["retrain"](max_steps=1, lr=1e-12, batch_norm="eval", **SMALL)(
        classifier, forget, retain=train_images
    ).classifier
    old = dict(classifier.named_parameters())
    assert not any(torch.equal(p, old[n]) for n, p in begun.named_parameters() if p.ndim > 1)
    assert torch.equal(begun.body.bn1.weight, torch.ones(8))
    learned = METHODS["retrain"](epochs=20, lr=0.05, augment=False, **SMALL)(
        classifier, forget, retain=train_images
    ).classifier
    row, _ = evaluate(begun, learned, forget, retain=train_images)
    assert row["acc_retain_before"] < 60
    assert row["acc_retain"] > 90


def test_fresh_weights_differ_by_seed_alone(classifier):
    drawn = []
    for seed in (0, 0, 1):
        network = classifier.copy()
        fresh(network, torch.Generator().manual_seed(seed))
        drawn.append(network.digest())
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_fresh_resnet_finds_all_classes_about_equally_likely():
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 4 - 2
    network = cifar_resnet20().eval()
    fresh(network, torch.Generator().manual_seed(0))
    assert network(images).softmax(1).amax(1).mean() < 0.2
    with torch.random.fork_rng():  # as torchvision's, which is that of the bad teacher's authors
        torch.manual_seed(0)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    assert network(images).softmax(1).amax(1).mean() > 0.4


def test_a_layer_that_cannot_be_made_afresh_is_refused(forget, train_images):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))
            self.fc = nn.Linear(192, 4)

        def forward(self, x):
            return self.fc((x * self.scale).flatten(1))

    odd = Classifier.wrap(Odd(), input_size=8)
    with pytest.raises(InputError, match=r"cannot reinitialise body\.scale"):
        METHODS["retrain"](max_steps=1)(odd, forget, retain=train_images)
    odd.body.scale.requires_grad_(False)
    METHODS["retrain"](max_steps=1)(odd, forget, retain=train_images)


def test_its_step_size_is_half_a_cosine():
    sizes = [half_cosine(step, 4) for step in (1, 2, 3, 4)]
    assert sizes == pytest.approx([1.0, 0.5 + 0.5 / math.sqrt(2), 0.5, 0.5 - 0.5 / math.sqrt(2)])


# wrong labels: Amnesiac and SalUn


def test_images_are_taught_one_wrong_class_each(classifier, forget, train_images):
    method = METHODS["amnesiac"](lr=0.02, epochs=40, retain_samples=24, retain_batch=16)
    result = method(classifier, forget, retain=train_images, seed=1)
    answers = result.classifier(forget.images).softmax(1)
    assert (answers.argmax(1) != forget.labels).all()
    assert answers.amax(1).min() > 0.5
    assert terms_of(result.history)[0] == {"relabelling"}


def test_salun_alternates_wrong_labels_and_right_ones(classifier, forget, train_images):
    method = METHODS["salun"](forget_batch=4, epochs=2, **SMALL)
    result = method(classifier, forget, retain=train_images)
    wrong, right = {"relabelling"}, {"retention"}
    epoch = [wrong, wrong, right, right, right]  # 6 images by 4, 96 by 32
    assert terms_of(result.history) == [*epoch, *epoch]


def test_the_mask_holds_the_largest_gradients():
    generator = torch.Generator().manual_seed(0)
    gradients = {n: torch.randn(s, generator=generator) for n, s in (("a", (5, 4)), ("b", (7,)))}
    masks = salient(gradients, 1 / 3)
    inside = sorted(float(g.abs()) for n in "ab" for g in gradients[n][masks[n]])
    everything = sorted(float(g.abs()) for n in "ab" for g in gradients[n].flatten())
    assert inside == everything[-9:]
    assert sum(int(mask.sum()) for mask in salient(gradients, 1e-9).values()) == 1


@pytest.mark.parametrize("batch", [6, 4])  # of the six images, a smaller one at the end
def test_masked_weights_stay_bit_identical_under_weight_decay(
    batch, classifier, forget, train_images, monkeypatch
):
    taken = partial(salun.forget_gradient, batch_size=batch)
    monkeypatch.setattr(salun, "forget_gradient", taken)
    classifier.zero_grad()
    F.cross_entropy(classifier(forget.images), forget.labels, reduction="sum").backward()
    gradients = {n: p.grad.clone() for n, p in classifier.named_parameters()}
    still = {n: ~mask for n, mask in salient(gradients, 0.3).items()}
    method = METHODS["salun"](saliency=0.3, weight_decay=0.5, lr=0.1, max_steps=15, **SMALL)
    after = dict(method(classifier, forget, retain=train_images).classifier.named_parameters())
    before = dict(classifier.named_parameters())
    assert sum(int(mask.sum()) for mask in still.values()) > 0.6 * 900
    for name, mask in still.items():
        assert torch.equal(after[name][mask], before[name][mask])
        assert (after[name][~mask] != before[name][~mask]).all()


def test_the_mask_cannot_be_empty():
    with pytest.raises(InputError, match="saliency=0"):
        METHODS["salun"](saliency=0.0)


# SSD


def test_damping_by_hand():
    weights = {"w": nn.Parameter(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]))}
    forget = {"w": torch.tensor([1.0, 30.0, 20.0, 0.0, 5.0])}
    whole = {"w": torch.tensor([1.0, 1.0, 2.0, 0.0, 0.0])}
    share = dampen(weights, forget, whole, alpha=10.0, dampening=6.0)
    # 1 < 10; 30 > 10, times 6/30; 20 = 20, not above; 0 = 0; 5 > 0, times 0
    assert weights["w"].tolist() == pytest.approx([1.0, 0.4, 4.0, 8.0, 0.0])
    assert share == 0.4
    dampen(weights, {"w": torch.full((5,), 2.0)}, {"w": torch.ones(5)}, alpha=1.0, dampening=9.0)
    assert weights["w"].tolist() == pytest.approx([1.0, 0.4, 4.0, 8.0, 0.0])  # never grows


def test_importance_of_single_images_is_the_fisher_information(classifier, forget):
    parameters = dict(classifier.named_parameters())
    one_by_one = zip(forget.images.split(1), forget.labels.split(1), strict=True)
    found = squared_gradients(parameters, classifier, one_by_one)
    together = squared_gradients(parameters, classifier, [(forget.images, forget.labels)])
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for image, label in zip(forget.images, forget.labels, strict=True):
        classifier.zero_grad()
        F.cross_entropy(classifier(image[None]), label[None]).backward()
        for name, p in parameters.items():
            total[name] += p.grad**2 / len(forget)
    classifier.zero_grad()
    F.cross_entropy(classifier(forget.images), forget.labels).backward()
    for name, value in found.items():
        assert torch.allclose(value, total[name], rtol=1e-4, atol=1e-12)
        assert torch.allclose(together[name], parameters[name].grad ** 2, rtol=1e-4, atol=1e-12)
        assert not torch.allclose(value, together[name], rtol=0.1, atol=0)


def test_of_a_sample_ssd_takes_what_the_whole_training_set_would_give(
    classifier, forget, train_images, monkeypatch
):
    seen = {}
    monkeypatch.setattr(ssd, "dampen", lambda p, f, whole, *_: seen.update(f=f, whole=whole) or 0.0)
    method = METHODS["ssd"](retain_samples=50, importance_batch=10)
    method(classifier, forget, retain=train_images)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(160, generator=generator).tolist()
    places = [i for i in order if i not in forget.indices][:50]
    parts = zip(
        train_images.load(places).split(10), train_images.labels[places].split(10), strict=True
    )
    parameters = dict(classifier.named_parameters())
    others = squared_gradients(parameters, classifier, parts)
    for name, value in seen["whole"].items():  # 154 retained images: 16 batches; 6: one
        expected = (16 * others[name] + seen["f"][name]) / 17
        assert torch.allclose(value, expected, rtol=1e-3, atol=1e-10)


# SCRUB


def test_scrub_alternates_max_and_min_passes(classifier, forget, train_images):
    method = METHODS["scrub"](forget_batch=4, epochs=4, max_steps=14, **SMALL)
    result = method(classifier, forget, retain=train_images)
    up, down = {"deletion"}, {"retention", "distillation"}
    epoch = [up, up, down, down, down]  # 6 images by 4, 96 by 32
    assert terms_of(result.history) == [*epoch, *epoch, down, down, down, down]
    assert [in_first_pass(s, 2, 3, 1) for s in range(1, 7)] == [True] * 2 + [False] * 4


def test_epochs_of_decay_are_numbers():
    with pytest.raises(InputError, match="decay_after='three'"):
        METHODS["scrub"](decay_after="three")


def test_a_max_pass_leads_away_from_the_teacher(classifier, forget, train_images):
    method = METHODS["scrub"](lr=0.02, forget_batch=1, max_steps=6, **SMALL)
    history = method(classifier, forget, retain=train_images).history
    deletion = [row["term_deletion"] for row in history[1:]]
    assert all(value <= 0 for value in deletion)
    assert deletion[-1] < deletion[0]


# UNSIR


def test_noise_maximises_the_error_of_its_class(trained):
    network = trained.copy().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(6, 3, 8, 8, generator=generator)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    settings = {"steps": 25, "lr": 0.1}
    made = error_maximising(network, noise, labels, penalty=0.0, **settings)
    start = loss_on(network, network.mean + network.std * noise, labels)
    assert loss_on(network, made, labels) > start + 1
    short = error_maximising(network, noise, labels, penalty=10.0, **settings)
    assert short.norm() < 0.5 * made.norm()


def test_unsir_impairs_and_then_repairs(classifier, forget, train_images):
    few = {"noise_images": 16, "noise_copies": 2, "noise_steps": 2, **SMALL}
    impair, repair = {"impairing"}, {"retention"}

    def run(**settings):
        return METHODS["unsir"](**few, **settings)(classifier, forget, retain=train_images)

    result = run()  # 2 classes x 16 images x 2 + 96, then 96, by 32
    assert terms_of(result.history) == [impair] * 5 + [repair] * 3
    assert result.seconds["probes"] > 0
    assert terms_of(run(max_steps=3).history) == [impair] * 2 + [repair]
    still = {"batch_norm": "eval", "impair_lr": 1e-12, "repair_lr": 1e-12}
    for changes, moves in (({}, False), ({"impair_lr": 0.1}, True), ({"repair_lr": 0.1}, True)):
        after = run(**still | changes).classifier
        assert (after.digest() != classifier.digest()) is moves


# LoTUS


def test_smoothing_by_temperature():
    logits = torch.tensor([[4.0, 0.0, 0.0]]).repeat(4000, 1)

    def draw(temperature):
        return gumbel_softmax(logits, temperature, torch.Generator().manual_seed(0))

    hard = draw(0.0)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(hard.sum(1), torch.ones(4000))
    drawn = hard.mean(0)  # a class comes as often as softmax says
    assert torch.allclose(drawn, logits[0].softmax(0), atol=0.02)
    spread = [-(p * p.clamp_min(1e-30).log()).sum(1).mean() for p in map(draw, (0.1, 1.0, 5.0))]
    assert spread[0] < spread[1] < spread[2]
    warm = draw(2.0)
    assert torch.allclose(warm.sum(1), torch.ones(4000), atol=1e-5)
    uniform = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0))
    slow = ((logits[7] - torch.log(-torch.log(uniform[7]))) / 2).exp()
    assert torch.allclose(warm[7], slow / slow.sum(), atol=1e-5)


def test_accuracy_image_by_image(classifier, test_images):
    hits = [
        int(classifier(test_images.load([i])).argmax()) == int(test_images.labels[i])
        for i in range(len(test_images))
    ]
    assert accuracy(classifier, test_images) == pytest.approx(sum(hits) / len(hits))


def test_the_less_is_known_of_unseen_data_the_smoother_the_teacher(
    classifier, forget, train_images
):
    def rise(unseen):
        method = METHODS["lotus"](lr=0.01, epochs=20, unseen_accuracy=unseen, **SMALL)
        after = method(classifier, forget, retain=train_images).classifier
        before = loss_on(classifier, forget.images, forget.labels)
        return loss_on(after, forget.images, forget.labels) - before

    assert rise(10.0) > rise(100.0)


def test_what_stands_in_for_unseen_data_is_never_trained_on(
    classifier, forget, train_images, monkeypatch
):
    sets = {}
    count = lotus.accuracy
    monkeypatch.setattr(
        lotus,
        "accuracy",
        lambda network, images: sets.update(unseen=images) or count(network, images),
    )
    union = lotus.union_batches
    monkeypatch.setattr(
        lotus, "union_batches", lambda task, size, first, retained: sets.update(retained=retained)
        or union(task, size, first, retained),
    )  # fmt: skip
    method = METHODS["lotus"](max_steps=1, retain_share=0.25, **SMALL)
    method(classifier, forget, retain=train_images)
    retained, unseen = (set(sets[name].indices.tolist()) for name in ("retained", "unseen"))
    assert (len(retained), len(unseen)) == (24, 72)
    assert not retained & unseen


def test_a_network_that_already_knows_the_forget_set_less_well_stays_as_it_is(
    classifier, forget, train_images
):
    other = ForgetSet(forget.images, (forget.labels + 2) % 4, forget.names)
    result = METHODS["lotus"](**SMALL)(classifier, other, retain=train_images)
    assert len(result.history) == 1
    assert result.ending == FORGOTTEN
    assert result.classifier.digest() == classifier.digest()


def test_lotus_never_calls_complete_what_diverged(classifier, forget, train_images, monkeypatch):
    monkeypatch.setattr(lotus, "gumbel_softmax", lambda logits, *_: math.nan * logits)
    method = METHODS["lotus"](unseen_accuracy=50.0, **SMALL)
    result = method(classifier, forget, retain=train_images)
    assert result.outcome is Outcome.DIVERGED
    assert result.stop_reason == "diverged: the loss is not finite at step 1"


def test_the_largest_alpha_makes_targets_even(classifier, forget, train_images):
    few = {"max_steps": 2, "unseen_accuracy": 30.0, **SMALL}
    largest, large = (
        METHODS["lotus"](alpha=alpha, **few)(classifier, forget, retain=train_images)
        for alpha in (1e6, 300.0)
    )
    assert largest.classifier.digest() == large.classifier.digest()


def test_impossible_settings_of_lotus_are_refused(classifier, forget, train_images):
    with pytest.raises(InputError, match="retain_share=0"):
        METHODS["lotus"](retain_share=0.0)
    with pytest.raises(InputError, match="unseen_accuracy=101"):
        METHODS["lotus"](unseen_accuracy=101.0)
    with pytest.raises(InputError, match="more"):
        METHODS["lotus"](retain_share=1.0)(classifier, forget, retain=train_images)


# L-CODEC


def test_each_step_is_judged_by_what_it_costs_itself(classifier, forget, train_images, monkeypatch):
    known = iter([100.0, 95.0, 91.0, 80.0, 86.0])  # after the third step, which is taken back: 91
    monkeypatch.setattr(lcodec, "accuracy", lambda *_: next(known))
    method = METHODS["lcodec"](perturbations=5, max_drop=5.0, max_steps=4)
    result = method(classifier, forget, retain=train_images)
    assert result.chosen["steps_taken_back"] == 1


def test_filters_are_counted_by_image_and_are_of_layers_that_may_change(
    classifier, forget, train_images, monkeypatch
):
    monkeypatch.setattr(lcodec, "foci", lambda columns, losses: list(range(columns.shape[1])))
    method = METHODS["lcodec"](perturbations=5, max_steps=2)
    for frozen, filters in ((False, 8 + 8 + 4), (True, 8 + 4)):
        classifier.body.conv1.requires_grad_(not frozen)
        result = method(classifier, forget, retain=train_images)
        assert result.chosen["filters_an_image"] == filters


class Tokens(nn.Module):
    """A linear layer on every pixel, one on every token, and a head."""

    def __init__(self):
        super().__init__()
        self.pixels, self.tokens, self.fc = nn.Linear(3, 5), nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.pixels(x.permute(0, 2, 3, 1)).relu()
        return self.fc(self.tokens(x.flatten(1, 2)).mean(1))


def test_the_activation_of_a_unit_is_its_mean_over_all_places():
    torch.manual_seed(0)
    network, images = Tokens(), torch.rand(3, 3, 4, 5)
    layers = {name: module for name, module in network.named_modules() if name}
    found, losses = mean_activations(network, layers, images, torch.tensor([2]))
    for i, image in enumerate(images):
        with torch.no_grad():
            pixels = network.pixels(image.permute(1, 2, 0))
            tokens = network.tokens(pixels.relu().flatten(0, 1))
            logits = network(image[None])
        assert torch.allclose(found["pixels"][i], sum(pixels.flatten(0, 1)) / 20, atol=1e-6)
        assert torch.allclose(found["tokens"][i], sum(tokens) / 20, atol=1e-6)
        assert torch.allclose(found["fc"][i], logits[0], atol=1e-6)
        assert float(losses[i]) == pytest.approx(-float(logits.log_softmax(1)[0, 2]), rel=1e-4)


# all of them


@pytest.mark.parametrize("name", NEEDY)
def test_a_few_retained_images_more_or_less_change_the_result(
    name, classifier, forget, train_images
):
    short = {
        "ssd": {"alpha": 1.0},
        "lcodec": {"max_steps": 2, "perturbations": 20, "epsilon": 1e6},
    }.get(name, {"max_steps": 2})
    first, second = (
        METHODS[name](retain_samples=count, **short)(classifier, forget, retain=train_images)
        for count in (40, 44)
    )
    assert first.classifier.digest() != second.classifier.digest()
