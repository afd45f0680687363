"""The ladder of criteria: what each asks, and that every part of a run follows it."""

import copy
import math

import pytest
import torch
from torch import nn

from stakes import Classifier, ForgetSet, StructGuard
from stakes.methods.structguard.objective import NEXT_CHOICES, Objective
from stakes.methods.task import Task
from stakes.training.criteria import CRITERIA, EXACT, Goal, deep_lead
from stakes.training.losses import margins
from stakes.training.targets import next_choices

pytestmark = pytest.mark.slow

QUICK = {
    "lr": 5e-3, "depth": 1.0, "feature_weight": 1, "probe_batch": 32, "patience": 4, "settle": 0.2,
    "max_steps": 600,
}  # fmt: skip


def ranks(logits: torch.Tensor, labels: torch.Tensor) -> list[int]:
    """The place of the true class among all of them, from 1, row by row."""
    return [
        1 + sum(value > row[label] for value in row)
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]


@pytest.mark.parametrize("classes", [3, 4, 10, 1000])
def test_deep_means_neither_of_the_first_two_and_no_likelier_than_a_guess(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(400, classes, generator=generator)
    labels = torch.randint(0, classes, (400,), generator=generator)
    probability = logits.double().softmax(1).gather(1, labels[:, None])[:, 0]
    met = [
        rank > 2 and p < 1 / classes
        for rank, p in zip(ranks(logits, labels), probability.tolist(), strict=True)
    ]
    assert (deep_lead(logits, labels) < 0).tolist() == met
    assert 0 < sum(met) < 400


def test_of_two_classes_the_other_one_counts():
    logits, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0])
    assert (deep_lead(logits, labels) < 0).tolist() == [True, False]


def test_a_destination_has_to_be_the_answer():
    logits, labels = torch.tensor([[0.0, 3.0, 2.0], [0.0, 1.0, 2.0]]), torch.tensor([0, 0])
    goal = Goal(margins, towards=torch.tensor([2, 1]))
    assert EXACT.of(logits, labels).tolist() == [-3.0, -2.0]
    assert goal.of(logits, labels).tolist() == [1.0, 1.0]
    assert goal.of(logits[1:], labels[1:], torch.tensor([0])).tolist() == [-1.0]


def test_destinations_are_drawn_evenly_from_the_next_choices():
    logits = torch.tensor([[9.0, 1.0, 2.0, 3.0, 4.0, -5.0]]).repeat(4000, 1)
    drawn = next_choices(logits, torch.zeros(4000).long(), 4, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=6).tolist()
    assert counts[0] == counts[5] == 0
    assert all(abs(count - 1000) < 5 * math.sqrt(1000 * 0.75) for count in counts[1:5])


def test_with_deep_every_image_ends_deep_and_where_it_was_sent(classifier, forget, anchors):
    deep = StructGuard(**QUICK)  # as by default
    exact = StructGuard(criterion="exact", **QUICK)
    found = deep(classifier, forget, anchors=anchors, seed=0)
    assert found.stop_reason.startswith("forgotten")
    logits = found.classifier(forget.images)
    assert min(ranks(logits, forget.labels)) > 2
    assert (logits.softmax(1).gather(1, forget.labels[:, None]) < 1 / 4).all()
    task = Task(classifier, forget, anchors)  # which has its own order
    answers = found.classifier(task.forget.images).argmax(1)
    assert answers.tolist() == Objective(deep, task).targets.tolist()
    # The way back stops where that still just holds, which is not where the paper's would.
    shallow = exact(classifier, forget, anchors=anchors, seed=0).classifier(forget.images)
    assert min(ranks(shallow, forget.labels)) == 2


def test_with_deep_the_original_s_second_choice_can_be_asked_for(classifier, forget, anchors):
    made = StructGuard(towards="second", **QUICK)(classifier, forget, anchors=anchors, seed=0)
    assert made.stop_reason.startswith("forgotten")
    own = torch.nn.functional.one_hot(forget.labels, classifier.num_classes).bool()
    second = classifier(forget.images).masked_fill(own, -torch.inf).argmax(1)
    assert made.classifier(forget.images).argmax(1).tolist() == second.tolist()
    assert min(ranks(made.classifier(forget.images), forget.labels)) > 2


def test_the_answers_of_deep_cannot_be_foretold(classifier, train_images, anchors):
    deep = StructGuard()
    guessed = total = 0
    for seed in range(40):
        task = Task(classifier, ForgetSet.random(train_images, 10, seed), anchors, seed)
        sent = Objective(deep, task).targets
        first = (
            classifier(task.forget.images)
            .scatter(1, task.forget.labels[:, None], -torch.inf)
            .argmax(1)
        )
        guessed, total = guessed + int((sent == first).sum()), total + len(sent)
    among = min(NEXT_CHOICES, classifier.num_classes - 1)
    assert abs(guessed / total - 1 / among) < 4 * math.sqrt(1 / among / total)


def test_a_check_says_what_is_missing_to_the_criterion(classifier, forget, anchors):
    task = Task(classifier, forget, anchors)
    deep = task.monitor(goal=Goal(CRITERIA["deep"].lead))
    with torch.no_grad():  # the true class second, everywhere
        task.live.head.weight.zero_()
        task.live.head.bias.copy_(torch.tensor([2.0, 2.0, 3.0, 0.0]))
    check = deep.check(task.live)
    assert check.forget_accuracy == 0
    assert not check.forgotten
    assert "0 % still recognised, 100 % not deep enough" in str(check)
    assert task.monitor().check(task.live).forgotten


def test_of_two_classes_nothing_is_said_of_the_second_choice(classifier, forget):
    """One of them always is; the head of these keeps the two that the images are of."""
    two = copy.deepcopy(classifier.body), nn.Linear(classifier.head.in_features, 2)
    two[1].load_state_dict({n: part[:2] for n, part in classifier.head.state_dict().items()})
    two = Classifier.wrap(nn.Sequential(*two), class_names=("a", "b"), input_size=8)
    known = two.eval()(forget.images).argmax(1) == forget.labels
    some = ForgetSet.from_tensors(forget.images[known], forget.labels[known])
    for criterion in ("exact", "deep"):
        found = StructGuard(**QUICK, criterion=criterion)(two, some)
        assert found.stop_reason.startswith("forgotten: every forget image is misclassified")
        assert "choice" not in found.stop_reason
    assert "choice" not in CRITERIA["views"].words(2)
