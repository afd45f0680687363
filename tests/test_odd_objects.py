"""Objects of one's own in Python: a wrong type is refused in one line, and is no AttributeError."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import CLASSES, Tiny
from stakes import (
    Anchors,
    Classifier,
    ForgetSet,
    InputError,
    NegGrad,
    StructGuard,
    as_images,
    evaluate,
    frame,
    load_data,
)

DIGITS = "stakes:digits_cnn"
Given = SimpleNamespace


def scored(given: Given, **more: Any) -> dict[str, Any]:
    network = given.classifier
    return evaluate(network, network, given.forget, test=given.images, thumbnails=False, **more)[0]


CALLS: dict[str, tuple[Callable[[Given], Any], str]] = {
    "load a number": (lambda g: Classifier.load(5), "unknown model"),
    "load nothing": (lambda g: Classifier.load(None), "unknown model"),
    "load a module": (lambda g: Classifier.load(Tiny()), "wrap"),
    "load weights of a list": (lambda g: Classifier.load(DIGITS, weights=[1]), "is not a path"),
    "load weights of a state dict": (
        lambda g: Classifier.load(DIGITS, weights={"a": torch.ones(1)}), "is not a path"),
    "load a word of classes": (lambda g: Classifier.load(DIGITS, class_names="abc"), "class_names"),
    "load a number of names": (lambda g: Classifier.load(DIGITS, class_names=3), "class_names"),
    "load classes as a word": (lambda g: Classifier.load(DIGITS, num_classes="3"), "num_classes"),
    "load half a class": (lambda g: Classifier.load(DIGITS, num_classes=2.5), "num_classes"),
    "load no class": (lambda g: Classifier.load(DIGITS, num_classes=0), "num_classes"),
    "load an endless number": (lambda g: Classifier.load(DIGITS, num_classes=10**12), "num_classes"),
    "load a size as a word": (lambda g: Classifier.load(DIGITS, input_size="8"), "input_size"),
    "load half a size": (lambda g: Classifier.load(DIGITS, input_size=8.5), "input_size"),
    "load three sizes": (lambda g: Classifier.load(DIGITS, input_size=(8, 8, 8)), "input_size"),
    "load a mean of words": (lambda g: Classifier.load(DIGITS, mean="grey"), "mean"),
    "load a mean of two": (lambda g: Classifier.load(DIGITS, mean=(0.5, 0.5)), "mean"),
    "load a std of 0": (lambda g: Classifier.load(DIGITS, std=0), "std"),
    "load a seed of a half": (lambda g: Classifier.load(DIGITS, seed=0.5), "seed"),
    "load onto a number": (lambda g: Classifier.load(DIGITS, device=-7), "device"),
    "wrap a word": (lambda g: Classifier.wrap("x", input_size=8), "torch.nn.Module"),
    "wrap a function": (lambda g: Classifier.wrap(lambda x: x, input_size=8), "torch.nn.Module"),
    "wrap a classifier": (lambda g: Classifier.wrap(g.classifier, input_size=8), "Classifier"),
    "wrap for a word": (lambda g: Classifier.wrap(Tiny(), input_size="8"), "input_size"),
    "wrap with other names": (
        lambda g: Classifier.wrap(Tiny(), class_names=["a"], input_size=8), "class names"),
    "wrap with a word of names": (
        lambda g: Classifier.wrap(Tiny(), class_names="abcd", input_size=8), "give a list of names"),
    "wrap with names in no order": (
        lambda g: Classifier.wrap(Tiny(), class_names={*"abcd"}, input_size=8), "give a list of names"),
    "wrap with names by number": (
        lambda g: Classifier.wrap(Tiny(), class_names=dict(enumerate("abcd")), input_size=8), "give a list"),
    "wrap with a number of names": (
        lambda g: Classifier.wrap(Tiny(), class_names=4, input_size=8), "give a list of names"),
    "images as a list": (lambda g: ForgetSet.from_tensors([1], torch.tensor([0])), "images"),
    "images above 1": (
        lambda g: ForgetSet.from_tensors(torch.full((1, 3, 8, 8), 9.0), torch.tensor([0])), "divide"),
    "labels as words": (lambda g: ForgetSet.from_tensors(torch.zeros(1, 3, 8, 8), ["cat"]), "label"),
    "labels as halves": (
        lambda g: ForgetSet.from_tensors(torch.zeros(1, 3, 8, 8), torch.tensor([0.5])), "as integers"),
    "labels missing": (lambda g: ForgetSet.from_tensors(torch.zeros(1, 3, 8, 8), None), "label"),
    "labels too few": (
        lambda g: ForgetSet.from_tensors(torch.zeros(2, 3, 8, 8), torch.tensor([0])), "label"),
    "draw as a word": (lambda g: ForgetSet.random(g.images, "3", 0), "random images"),
    "draw a half": (lambda g: ForgetSet.random(g.images, 1.5, 0), "random images"),
    "draw by half a seed": (lambda g: ForgetSet.random(g.images, 3, 0.5), "seed"),
    "draw below a seed": (lambda g: ForgetSet.random(g.images, 3, -1), "seed"),
    "draw from a list": (lambda g: ForgetSet.random([1, 2], 1, 0), "image"),
    "draw places as words": (lambda g: ForgetSet.from_indices(g.images, ["a"]), "ind"),
    "a folder by number": (lambda g: ForgetSet.from_folder(5, CLASSES), "5"),
    "unlearn a module": (lambda g: StructGuard()(Tiny(), g.forget), "Classifier"),
    "unlearn a list": (lambda g: StructGuard()(g.classifier, [1, 2]), "ForgetSet"),
    "unlearn a tensor": (lambda g: StructGuard()(g.classifier, torch.zeros(1, 3, 8, 8)), "ForgetSet"),
    "unlearn by half a seed": (lambda g: StructGuard()(g.classifier, g.forget, seed=1.5), "seed"),
    "unlearn by a word": (lambda g: StructGuard()(g.classifier, g.forget, seed="0"), "seed"),
    "unlearn below a seed": (lambda g: StructGuard()(g.classifier, g.forget, seed=-1), "seed"),
    "unlearn with a number": (lambda g: StructGuard()(g.classifier, g.forget, anchors=5), "anchors"),
    "unlearn with a tensor": (
        lambda g: StructGuard()(g.classifier, g.forget, anchors=torch.eye(4)), "anchors"),
    "unlearn with a list": (lambda g: StructGuard()(g.classifier, g.forget, anchors=["a"]), "anchors"),
    "anchors of a list": (lambda g: Anchors([[1.0]], ("a", "b")), "anchors"),
    "anchors of an array": (lambda g: Anchors(np.eye(2), ("a", "b")), "anchors"),
    "anchors of a number": (lambda g: Anchors.load(5), "is not a path"),
    "data by number": (lambda g: load_data(5), "5"),
    "data of nothing": (lambda g: load_data(None), "None"),
    "unlearn by a seed of yes": (
        lambda g: StructGuard()(g.classifier, g.forget, seed=True), "^seed True: give a whole"),
    "draw classes by a word": (
        lambda g: ForgetSet.from_classes(g.images, "50%", CLASSES, "1"), "^seed '1': give a whole"),
    "draw a yes": (lambda g: ForgetSet.random(g.images, True, 0), "random images"),
    "evaluate by half a seed": (lambda g: scored(g, seed=1.5), "^seed 1.5: give a whole"),
    "evaluate by a word": (lambda g: scored(g, seed="3"), "seed '3': give a whole"),
    "evaluate half an image": (lambda g: scored(g, eval_samples=1.5), "eval_samples 1.5: score"),
    "evaluate a word of images": (lambda g: scored(g, eval_samples="3"), "eval_samples '3': score"),
    "evaluate a yes": (lambda g: scored(g, eval_samples=True), "eval_samples True: score"),
    "evaluate no image": (lambda g: scored(g, eval_samples=0), "eval_samples 0: score"),
    "name no hyper-parameter": (lambda g: NegGrad(0.1), r"NegGrad\(0.1\): give .* by their names"),
    "data of three parts": (
        lambda g: as_images([(torch.zeros(3, 8, 8), 0, 1)]), "image 0 is a tuple of length 3: give"),
    "frame a number": (lambda g: frame(3), "3 is not a row: give rows"),
    "frame a list of numbers": (lambda g: frame([3]), "3 is not a row: give rows"),
    "evaluate a module": (lambda g: evaluate(Tiny(), g.classifier, g.forget), "Classifier"),
    "evaluate to a module": (lambda g: evaluate(g.classifier, Tiny(), g.forget), "Classifier"),
    "evaluate on a list": (lambda g: evaluate(g.classifier, g.classifier, [1]), "ForgetSet"),
    "features of a list": (lambda g: g.classifier.features([1]), r"\(n, 3, h, w\)"),
    "features of one image": (lambda g: g.classifier(torch.zeros(3, 8, 8)), r"\(n, 3, h, w\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_type_is_one_line(name, trained, forget, train_images):
    call, said = CALLS[name]
    with pytest.raises(InputError, match=said) as refused:
        call(Given(classifier=trained, forget=forget, images=train_images))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_whole_numbers_of_other_libraries_are_whole_numbers(kind, trained, forget, train_images):
    given = Given(classifier=trained, forget=forget, images=train_images)
    one, plain = (
        (
            NegGrad(max_steps=1)(trained, forget, seed=number(1)).classifier.digest(),
            ForgetSet.random(train_images, number(3), number(2)).indices,
            ForgetSet.from_classes(train_images, "50%", CLASSES, number(2)).classes,
            scored(given, eval_samples=number(4), seed=number(1)),
            Classifier.load(DIGITS, seed=number(5)).digest(),
        )
        for number in (kind, int)
    )
    assert one == plain


def test_a_network_is_wrapped_wherever_new_tensors_would_be_made():
    network = Tiny()
    plain = Classifier.wrap(network, input_size=8, mean=0.5, std=(0.2, 0.3, 0.4))
    with torch.device("meta"):
        found = Classifier.wrap(network, input_size=8, mean=0.5, std=(0.2, 0.3, 0.4))
    assert found.device == torch.device("cpu")
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(found(images), plain(images))


def test_a_module_returned_in_half_or_double_precision_works():
    torch.manual_seed(0)
    network = Tiny()
    whole = Classifier.wrap(network, input_size=8)
    images = torch.rand(2, 3, 8, 8)
    for kind in (torch.half, torch.bfloat16, torch.double):
        made = Classifier.wrap(Tiny().to(kind), input_size=8)
        assert made(images).dtype == torch.float32
    double = Classifier.wrap(nn.Module.double(network), input_size=8)
    torch.testing.assert_close(double(images), whole(images))


class Keeps(Tiny):
    """It keeps its last features, as code does that draws attention maps."""

    def __init__(self, *others: object) -> None:
        super().__init__()
        self.others = others

    def forward(self, x):
        self.last = torch.relu(self.bn1(self.conv1(x)))
        self.all = [self.last]
        return self.fc(self.conv2(self.last).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "make", [Keeps, lambda: weight_norm_of(Tiny()), lambda: parametrized(Tiny(), "conv2")]
)
def test_a_network_that_keeps_what_it_computed_can_be_changed(make, forget):
    torch.manual_seed(0)
    network = make()
    images = torch.rand(2, 3, 8, 8)
    network(images).sum().backward()
    classifier = Classifier.wrap(network, input_size=8)
    classifier(images).sum().backward()
    result = NegGrad(max_steps=2, lr=0.1)(classifier, forget)
    assert not torch.equal(result.classifier(images), classifier(images))
    torch.testing.assert_close(result.classifier.network()(images), result.classifier(images))


def weight_norm_of(network: nn.Module) -> nn.Module:
    network.conv2 = nn.utils.weight_norm(network.conv2)
    return network


def parametrized(network: nn.Module, name: str) -> nn.Module:
    nn.utils.parametrizations.weight_norm(network.get_submodule(name))
    return network


def test_a_head_whose_weights_are_computed_is_refused_with_what_makes_them_plain():
    network = parametrized(Tiny(), "fc")
    answers = network.eval()(torch.ones(1, 3, 8, 8))
    with pytest.raises(
        InputError, match=r"computed by a parametrization; .*\(network.fc, 'weight'\)"
    ):
        Classifier.wrap(network, input_size=8)
    nn.utils.parametrize.remove_parametrizations(network.fc, "weight")
    plain = Classifier.wrap(network, input_size=8).network()
    torch.testing.assert_close(plain(torch.ones(1, 3, 8, 8)), answers)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*not a leaf:UserWarning")
def test_what_cannot_be_copied_or_changed_is_one_line():
    with pytest.raises(InputError, match="your Keeps cannot be copied"):
        Classifier.wrap(Keeps(threading.Lock()), input_size=8)
    with pytest.raises(InputError, match="is a TorchScript program"):
        Classifier.wrap(torch.jit.script(Tiny().eval()), input_size=8)
