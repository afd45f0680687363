"""One table of behaviour that every method must pass."""

import dataclasses
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stakes import METHODS, Classifier, ForgetSet, InputError, StructGuard
from stakes.methods import PRESETS, StructGuardPaper, StructGuardReference, probing
from stakes.methods.task import Unlearned
from stakes.rows import Outcome
from stakes.training import checkpoint
from stakes.training.checkpoint import Checkpoint

pytestmark = pytest.mark.slow

QUICK = {"probes_per_image": 3, "pgd_iterations": 20, "eps": 2.0, "batch_norm": "eval"}
DEFAULT = {
    "lr": 2e-2, "depth": 2 / 3, "feature_weight": 1, "probe_batch": 32, "patience": 4,
    "settle": 0.2,
}  # fmt: skip
VIEWS = {
    "criterion": "views", "retention_weight": 0.1, "feature_weight": 0.1, "align_weight": 0,
    "max_drift": 2.0,
}  # fmt: skip
FEW = {"views_needed": 0.7, "probe_batch": 16}
PAPER = QUICK | {"importance_probes": 8, "max_steps": 1000}
SHORT = 6  # steps of a run that is only compared with another
SMALL = {"retain_samples": 96, "retain_batch": 32}
VARIANTS = {
    "structguard": StructGuard(max_steps=600, **DEFAULT),
    "structguard views": StructGuard(max_steps=600, **DEFAULT | VIEWS | FEW),
    "structguard paper": StructGuardPaper(
        lr=0.02,
        align_over="probes",
        projector_start="random",
        **PAPER | {"probes_per_image": 1},
    ),
    "structguard paper, summed": StructGuardPaper(lr=0.02, weighting="sum", **PAPER),
    "structguard reference": StructGuardReference(lr=0.02, probe_batch=7, **QUICK),
    "structguard projected": StructGuardPaper(
        lr=0.02, weighting="sum", deploy="projected", **PAPER
    ),
    "structguard both": StructGuard(probes="both", **DEFAULT),
    "l2ul": METHODS["l2ul"](lr=0.03, **QUICK | {"batch_norm": "train"}),
    "adv": METHODS["adv"](lr=0.03, **QUICK | {"batch_norm": "train"}),
    "neggrad": METHODS["neggrad"](lr=0.003),
    "rawp": METHODS["rawp"](),
    "fisher": METHODS["fisher"](alpha=1e-6, alpha_max=1.0, max_steps=30),
    "random_label": METHODS["random_label"](lr=0.01, epochs=0),
    "boundary_shrink": METHODS["boundary_shrink"](lr=0.01, epochs=0),
    "boundary_expand": METHODS["boundary_expand"](lr=1e-3, epochs=0, batch_norm="eval"),
    "delete": METHODS["delete"](lr=0.03, epochs=0),
    "esc": METHODS["esc"](max_steps=100),
    "negmerge": METHODS["negmerge"](lr=0.01, tune_steps=8),
    "npo": METHODS["npo"](lr=0.01),
    "amun": METHODS["amun"](decay=1, epochs=0, max_steps=20, pgd_iterations=20),
    "jit": METHODS["jit"](samples=4, epochs=0, max_steps=60),
    "mu_mis": METHODS["mu_mis"](lr=5e-4, recovery=100, max_steps=90),
    "lookup": METHODS["lookup"](),
    "oracle": METHODS["oracle"](lr=0.01, settle_least=10, **SMALL),
    "retrain": METHODS["retrain"](lr=0.05, epochs=20, augment=False, **SMALL),
    "finetune": METHODS["finetune"](max_steps=30, **SMALL),
    "amnesiac": METHODS["amnesiac"](lr=0.02, epochs=40, retain_samples=24, retain_batch=16),
    "salun": METHODS["salun"](
        lr=0.05, epochs=1, forget_batch=1, retain_samples=96, retain_batch=96
    ),
    "ssd": METHODS["ssd"](retain_samples=96, alpha=1.0, dampening=0.1),
    "scrub": METHODS["scrub"](lr=0.05, forget_batch=1, epochs=9, max_epochs=9, **SMALL),
    "unsir": METHODS["unsir"](noise_images=32, noise_copies=4, noise_steps=10, **SMALL),
    "lotus": METHODS["lotus"](
        lr=0.01, epochs=20, unseen_accuracy=1.0, augment=False, retain_samples=96, retain_batch=8
    ),
    "bad_teacher": METHODS["bad_teacher"](lr=0.05, epochs=20, retain_samples=40, retain_batch=8),
    "lcodec": METHODS["lcodec"](perturbations=20, epsilon=1e6),
    "sfron": METHODS["sfron"](lr=0.05, iterations=10, forget_every=2, **SMALL),
}
#: They take no gradient steps on the network itself, and are too short to be gone on with.
NO_LOOP = {"fisher", "esc", "negmerge", "ssd", "lookup"}
#: Nothing in their objective asks that an image be misclassified, or what asks it is repaired.
UNFORCED = {
    "retrain", "finetune", "unsir", "lotus", "salun", "bad_teacher", "lcodec", "amun", "jit",
    "mu_mis",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _few_inverted():
    """Inversion is most of the time of a run with the criterion of views; a little does here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "INVERTED", 64)
        patch.setattr(probing, "INVERSION_STEPS", 10)
        yield


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    """One after the other, so that the tests of a variant follow each other and share its runs."""
    return request.param


@pytest.fixture(scope="module")
def method(variant):
    return VARIANTS[variant]


@pytest.fixture(scope="module")
def given(method, train_images):
    """Retained data for the methods that need it: all training data, the forget set among it."""
    return {"retain": train_images} if method.needs_retain else {}


@pytest.fixture(scope="module")
def short_run(method, trained, forget, anchors, given):
    """A few steps with seed 5, for the tests that compare another run with it."""
    return shortened(method, SHORT)(trained, forget, anchors=anchors, seed=5, **given)


class Whole(NamedTuple):
    """A run to its end, and what it was given."""

    network: Classifier
    images: ForgetSet
    result: Unlearned


@pytest.fixture(scope="module")
def whole(trained, forget, anchors, train_images):
    """Give a variant's run with seed 0, made once; nobody may change it."""

    @cache
    def run(name):
        method = VARIANTS[name]
        given = {"retain": train_images} if method.needs_retain else {}
        network, images = trained.copy(), replace(forget, images=forget.images.clone())
        result = method(network, images, anchors=anchors, seed=0, **given)
        return Whole(network, images, result)

    return run


def shortened(method, steps):
    """The method with another budget, if it takes steps."""
    named = {item.name for item in dataclasses.fields(method)}
    return replace(method, **({"max_steps": steps} if "max_steps" in named else {}))


def test_every_method_is_in_the_table():
    presets = {kind for own in PRESETS.values() for kind in own.values() if "unlearn" in vars(kind)}
    assert {type(method) for method in VARIANTS.values()} == set(METHODS.values()) | presets


def test_it_forgets_and_leaves_its_input_bit_identical(variant, whole, trained, forget):
    network, images, result = whole(variant)
    logits = result.classifier(forget.images)
    known = logits.argmax(1) == forget.labels
    assert (result.outcome is Outcome.FORGOTTEN) == (not known.any())
    assert result.history[-1]["forget_accuracy"] == pytest.approx(100 * known.float().mean().item())
    if variant not in UNFORCED:
        assert not known.any()
    before, after = trained.state_dict(), network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(images.images, forget.images)
    assert result.classifier.digest() != trained.digest()
    rise = F.cross_entropy(logits, forget.labels) - F.cross_entropy(
        trained(forget.images), forget.labels
    )
    if variant != "finetune":
        assert rise > 0
    assert not result.classifier.training


def test_an_interrupted_run_goes_on_to_the_same_bits(
    variant, method, short_run, classifier, forget, anchors, given, tmp_path, monkeypatch
):
    short, file, notes = shortened(method, SHORT), tmp_path / "state", []
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)

    def report(phase, done, total, note=""):
        notes.append(note)

    def stop(self, step, history):
        save(self, step, history)
        if step == 2 and file.exists():
            raise KeyboardInterrupt

    save = Checkpoint.save
    if variant in NO_LOOP:
        again = short(classifier, forget, anchors=anchors, seed=5, checkpoint=file, **given)
        assert not file.exists()
        assert again.history == short_run.history
        return
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            short(classifier, forget, anchors=anchors, seed=5, checkpoint=file, **given)
    again = short(
        classifier, forget, anchors=anchors, seed=5, checkpoint=file, progress=report, **given
    )
    assert "going on after step 2" in notes
    assert again.classifier.digest() == short_run.classifier.digest()
    assert again.history == short_run.history


def test_frozen_parameters_stay_bit_identical(method, classifier, forget, anchors, given):
    classifier.body.conv1.requires_grad_(False)
    result = shortened(method, 2)(classifier, forget, anchors=anchors, seed=0, **given)
    assert torch.equal(result.classifier.body.conv1.weight, classifier.body.conv1.weight)
    if isinstance(method, METHODS["lookup"]):  # it changes nothing
        return
    free = "head.weight" if isinstance(method, METHODS["esc"]) else "body.conv2.weight"
    after = result.classifier.get_parameter(free)  # ESC has nothing but the head to change
    assert not torch.equal(after, classifier.get_parameter(free))


def test_a_network_whose_weights_are_all_frozen_is_refused_before_any_work(
    method, classifier, forget, anchors, given
):
    with pytest.raises(InputError, match="frozen"):
        method(classifier.requires_grad_(False), forget, anchors=anchors, **given)


def moved(before, after):
    """Which BatchNorm statistics differ."""
    old = dict(before.named_buffers())
    return [
        not torch.equal(v, old[n]) for n, v in after.named_buffers() if "running" in n and n in old
    ]


def test_batchnorm_statistics_move_in_train_mode_alone(
    variant, method, classifier, forget, anchors, given
):
    if "batch_norm" not in {item.name for item in dataclasses.fields(method)}:
        assert variant in {*NO_LOOP, "lcodec"}
        after = method(classifier, forget, anchors=anchors, **given).classifier
        assert not any(moved(classifier, after))
        return
    for mode in ("eval", "train"):
        short = replace(method, batch_norm=mode, max_steps=2)
        after = short(classifier, forget, anchors=anchors, **given).classifier
        if variant == "retrain" and mode == "eval":  # those of a fresh network
            assert all(
                torch.equal(value, torch.full_like(value, float("var" in name)))
                for name, value in after.named_buffers()
                if "running" in name
            )
        else:
            assert set(moved(classifier, after)) == {mode == "train"}


def test_the_default_never_moves_batchnorm_statistics():
    assert StructGuard().batch_norm == "eval"


def test_the_same_seed_gives_the_same_weights_in_any_order_and_global_randomness_has_no_part(
    method, short_run, classifier, forget, anchors, given
):
    torch.rand(7)
    state = torch.random.get_rng_state()
    turned = ForgetSet(forget.images.flip(0), forget.labels.flip(0), forget.names[::-1])
    short = shortened(method, SHORT)
    again = short(classifier, turned, anchors=anchors, seed=5, **given)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.classifier.digest() == short_run.classifier.digest()


def test_a_single_image_can_be_forgotten(variant, method, classifier, forget, anchors, given):
    one = ForgetSet(forget.images[:1], forget.labels[:1], forget.names[:1])
    result = method(classifier, one, anchors=anchors, seed=0, **given)
    known = bool(result.classifier(one.images).argmax(1) == one.labels)
    assert (result.outcome is Outcome.FORGOTTEN) == (not known)
    assert variant in UNFORCED or not known


def test_every_field_says_what_it_means(method):
    for item in dataclasses.fields(method):
        assert len(item.metadata["doc"]) >= 5, item.name


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match=r"probes='pdg'.*auto, mixed, inverted, pgd, both"):
        StructGuard(probes="pdg")
    with pytest.raises(InputError, match=r"forget_batch=0.* 1"):
        METHODS["neggrad"](forget_batch=0)
    with pytest.raises(InputError, match="lr=nan"):
        METHODS["l2ul"](lr=float("nan"))


def test_both_paths_are_returned_and_differ(whole, forget):
    direct = whole("structguard paper").result
    assert direct.classifier.projector is None
    assert list(direct.other) == ["projected"]
    projected = whole("structguard projected").result
    assert projected.classifier.projector is not None
    assert list(projected.other) == ["direct"]
    assert projected.other["direct"].projector is None
    logits = projected.classifier(forget.images)
    assert not torch.equal(logits, projected.other["direct"](forget.images))


def test_structure_holds_better_with_the_alignment_than_by_neggrad(whole):
    held, lost = whole("structguard").result, whole("neggrad").result
    assert held.history[-1]["drift"] < lost.history[-1]["drift"]


def test_terms_can_be_switched_off(whole, classifier, forget, anchors):
    off = {"align_weight": 0, "feature_weight": 0, "max_steps": 2}
    bare = StructGuard(**DEFAULT | off)
    names = bare(classifier, forget, anchors=anchors).history[-1].keys()
    assert {name for name in names if name.startswith("term_")} == {
        "term_deletion",
        "term_retention",
    }
    full = whole("structguard paper").result.history[-1]
    assert {"term_alignment", "term_regularisation", "term_elastic_net"} <= full.keys()


def test_seconds_are_told_by_phase(whole):
    result = whole("structguard paper").result
    assert set(result.seconds) == {"probes", "importance", "unlearn"}
    assert all(spent > 0 for spent in result.seconds.values())


#: They normalise by the statistics of a batch by default.
BY_BATCH = (
    "neggrad", "l2ul", "adv", "delete", "npo", "boundary_shrink", "boundary_expand", "amun", "rawp",
    "random_label",
)  # fmt: skip


def narrow():
    """A network with one value a channel of each image, and three images for it."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 8), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4)]
    network = Classifier.wrap(nn.Sequential(*layers), class_names=list("abcd"), input_size=8)
    images = torch.rand(3, 3, 8, 8)
    return network, images, network(images).argmax(1).tolist()


@pytest.mark.parametrize("name", BY_BATCH)
def test_batchnorm_of_a_single_image_is_refused_with_a_way_out(name):
    network, images, labels = narrow()
    one = ForgetSet.from_tensors(images[:1], labels[:1])
    method = METHODS[name](max_steps=2)
    with pytest.raises(InputError, match="one image: add --batch-norm eval, forget more images"):
        method(network, one)
    replace(method, batch_norm="eval")(network, one)


def test_so_is_that_of_a_last_batch():
    network, images, labels = narrow()
    forget = ForgetSet.from_tensors(images, labels)
    with pytest.raises(InputError, match="leaves no single image over"):
        METHODS["delete"](forget_batch=2, lr=1e-6)(network, forget)


@pytest.mark.parametrize(
    "name", ["neggrad", "l2ul", "adv", "random_label", "delete", "amun", "jit"]
)
def test_all_steps_that_a_method_prescribes_are_complete_and_fewer_a_budget(name):
    network, images, labels = narrow()
    forget = ForgetSet.from_tensors(images, labels)
    fields = {item.name for item in dataclasses.fields(METHODS[name])}
    given = {"lr": 1e-12, "batch_norm": "eval"} | ({"epochs": 2} if "epochs" in fields else {})
    done = METHODS[name](**given)(network, forget)
    assert done.outcome is Outcome.COMPLETE
    assert done.stop_reason.startswith("complete: all ")
    assert METHODS[name](**given, max_steps=1)(network, forget).outcome is Outcome.BUDGET


@pytest.mark.parametrize("name", ["random_label", "delete", "amun", "jit"])
def test_a_budget_of_just_the_steps_that_are_prescribed_is_enough(name):
    network, images, labels = narrow()
    forget = ForgetSet.from_tensors(images, labels)
    method = METHODS[name](lr=1e-12, batch_norm="eval", epochs=2, max_steps=2)  # a pass is a step
    assert method(network, forget).outcome is Outcome.COMPLETE
