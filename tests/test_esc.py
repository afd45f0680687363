import numpy as np
import pytest
import torch

from stakes import InputError
from stakes.methods import ESC
from stakes.training.loop import FORGOTTEN


def test_the_logits_are_those_of_features_without_their_main_directions(
    classifier, forget, anchors
):
    result = ESC(share=0.25, max_steps=1)(classifier, forget, anchors=anchors)
    assert result.history[-1]["strength"] == 2  # a quarter of 8 features
    features = classifier.features(forget.images).detach().double().numpy()
    directions = np.linalg.svd(features.T)[0][:, :2]
    projected = features - features @ directions @ directions.T
    head = {n: p.detach().double().numpy() for n, p in classifier.head.named_parameters()}
    expected = projected @ head["weight"].T + head["bias"]
    found = result.classifier(forget.images).detach().double().numpy()
    assert np.allclose(found, expected, atol=1e-4)
    assert not np.allclose(found, features @ head["weight"].T + head["bias"], atol=0.1)


def test_nothing_but_the_heads_weight_changes(classifier, forget, anchors):
    after = ESC(max_steps=100)(classifier, forget, anchors=anchors).classifier.state_dict()
    changed = {n for n, v in classifier.state_dict().items() if not torch.equal(v, after[n])}
    assert changed == {"head.weight"}


def test_no_more_directions_are_taken_than_it_needs(classifier, forget, anchors):
    result = ESC(max_steps=100)(classifier, forget, anchors=anchors)
    assert result.ending == FORGOTTEN
    counts = [row["strength"] for row in result.history[1:]]
    assert counts == [float(m) for m in range(1, len(counts) + 1)]
    assert result.chosen == {"directions": counts[-1]}
    assert all(row["forget_accuracy"] > 0 for row in result.history[:-1])


def test_the_last_try_is_all_directions_there_are(classifier, forget, anchors):
    biased = classifier.copy()
    with torch.no_grad():
        biased.head.bias[:] = torch.tensor([100.0, 100.0, 0.0, 0.0])  # always one of the two
    result = ESC(share=0.5, max_steps=100)(
        biased, forget, anchors=anchors
    )  # 4 of 8 at a time; 6 images
    assert [row["strength"] for row in result.history[1:]] == [4, 6]
    assert result.stop_reason.startswith("limit: 2 strengths up to 6")


def test_a_frozen_head_is_refused(classifier, forget, anchors):
    classifier.head.requires_grad_(False)
    with pytest.raises(InputError, match="head"):
        ESC(max_steps=100)(classifier, forget, anchors=anchors)
