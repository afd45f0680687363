import math

import pytest

from stakes.methods import RandomLabel


def losses(method, classifier, forget, anchors, seed=0):
    history = method(classifier, forget, anchors=anchors, seed=seed).history
    return [row["term_relabelling"] for row in history[1:]]


def test_each_image_keeps_the_one_wrong_label_it_got(classifier, forget, anchors):
    still = RandomLabel(
        lr=1e-12, augment=False, forget_batch=1, batch_norm="eval", max_steps=3 * len(forget)
    )
    measured = losses(still, classifier, forget, anchors)
    epochs = [sorted(measured[i : i + len(forget)]) for i in range(0, len(measured), len(forget))]
    assert epochs[0] == pytest.approx(epochs[1], abs=1e-5)
    assert epochs[0] == pytest.approx(epochs[2], abs=1e-5)
    probabilities = classifier(forget.images).softmax(1).tolist()
    wrong = [
        -math.log(p)
        for row, label in zip(probabilities, forget.labels.tolist(), strict=True)
        for j, p in enumerate(row)
        if j != label
    ]
    for loss in epochs[0]:
        assert min(abs(loss - value) for value in wrong) < 1e-4


def test_another_seed_draws_other_labels(classifier, forget, anchors):
    once = RandomLabel(lr=1e-12, batch_norm="eval", max_steps=1)
    drawn = {losses(once, classifier, forget, anchors, seed)[0] for seed in range(4)}
    assert len(drawn) > 1
