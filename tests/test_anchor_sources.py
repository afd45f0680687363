"""Which anchors a word means, and those that are made from the network."""

import pytest
import torch
from torch.nn import functional as F

from conftest import CLASSES
from stakes import Anchors, ForgetSet, InputError, StructGuard
from stakes.anchors.sources import class_means, made_from_network, prototypes, resolve_anchors
from stakes.data.augment import mixed
from stakes.methods import StructGuardPaper


def cosines(anchors: Anchors, rows: torch.Tensor) -> torch.Tensor:
    return F.cosine_similarity(anchors.vectors, rows, dim=1)


def test_each_word_means_its_anchors(classifier, forget, anchors, tmp_path):
    anchors.save(tmp_path / "mine.safetensors")
    digests = {
        word: resolve_anchors(classifier, word, forget).digest()
        for word in (None, "head", "prototypes", "random:0", str(tmp_path / "mine.safetensors"))
    }
    assert digests[None] == digests["head"]
    assert digests[str(tmp_path / "mine.safetensors")] == anchors.digest()
    assert len(set(digests.values())) == 4
    turned = Anchors(anchors.vectors.flip(0), CLASSES[::-1])
    assert resolve_anchors(classifier, turned, forget).digest() == anchors.digest()
    with pytest.raises(InputError, match="red"):
        resolve_anchors(classifier, "cifar10", forget)


def test_only_words_that_need_the_network_are_made_from_it():
    assert [made_from_network(word) for word in ("head", "prototypes", "random:3")] == [True] * 3
    assert not any(made_from_network(word) for word in ("digits", "random.npy", "heads"))


def test_class_means_against_a_loop():
    features = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 3
    means, counts = class_means(features, labels, 4)
    for c in range(3):
        torch.testing.assert_close(means[c], features[labels == c].mean(0))
    assert counts.tolist() == [7, 7, 6, 0]
    assert means[3].tolist() == [0, 0, 0]


def test_prototypes_are_written_out(classifier, forget):
    found = prototypes(classifier, forget, seed=4)
    ordered = forget.in_one_order()
    made = mixed(ordered.images, 512, torch.Generator().manual_seed(4))
    with torch.no_grad():
        labels = torch.cat([ordered.labels, classifier(made).argmax(1)])
        features = F.normalize(classifier.features(torch.cat([ordered.images, made])))
    for c, name in enumerate(CLASSES):
        mine = features[labels == c]
        if len(mine):
            expected = F.normalize(mine.mean(0), dim=0)
            torch.testing.assert_close(found.vectors[c], expected, rtol=1e-4, atol=1e-5)
            assert found.card["images"][name] == len(mine)
    assert sum(found.card["images"].values()) == 6 + 512
    assert {"red", "green"} <= set(found.card["images"])


def test_prototypes_are_nearer_to_the_retained_means_than_the_head(
    classifier, forget, train_images
):
    rest = sorted(set(range(len(train_images))) - set(forget.indices))
    images, labels = train_images.load(rest), train_images.labels[rest]
    with torch.no_grad():
        truth = class_means(F.normalize(classifier.features(images)), labels, len(CLASSES))[0]
    visual = resolve_anchors(classifier, "prototypes", forget)
    head = resolve_anchors(classifier, "head", forget)
    assert (cosines(visual, truth) >= cosines(head, truth)).all()
    assert cosines(visual, truth)[:2].min() > 0.95


def test_a_class_that_no_image_shows_keeps_its_row_of_the_head(classifier, forget):
    with torch.no_grad():
        classifier.head.bias[2:] -= 1e4  # so that no mixture is taken for blue or grey
    found = prototypes(classifier, forget)
    head = F.normalize(classifier.head.weight.detach())
    assert found.card["from_head"] == ["blue", "grey"]
    assert set(found.card["images"]) == {"red", "green"}
    torch.testing.assert_close(found.vectors[2:], head[2:])
    assert (cosines(found, head)[:2] < 0.999).all()


def test_prototypes_know_the_seed_but_no_order_and_no_mode(classifier, forget):
    turned = ForgetSet(forget.images.flip(0), forget.labels.flip(0), forget.names[::-1])
    first = prototypes(classifier, forget, seed=1)
    classifier.train()
    state = {name: value.clone() for name, value in classifier.state_dict().items()}
    assert prototypes(classifier, turned, seed=1).digest() == first.digest()
    assert classifier.training
    assert all(torch.equal(value, state[n]) for n, value in classifier.state_dict().items())
    assert prototypes(classifier, forget, seed=2).digest() != first.digest()


def test_random_anchors_are_unit_and_as_wide_as_the_features(classifier, forget):
    found = resolve_anchors(classifier, "random:7", forget)
    assert found.vectors.shape == (len(CLASSES), classifier.feature_width)
    torch.testing.assert_close(found.vectors.norm(dim=1), torch.ones(len(CLASSES)))
    assert resolve_anchors(classifier, "random:7", forget, seed=5).digest() == found.digest()
    assert resolve_anchors(classifier, "random:8", forget).digest() != found.digest()
    assert found.card["name"] == "random:7"
    for word in ("random:", "random:-1", "random:x", f"random:{2**63}"):
        with pytest.raises(InputError, match=f"anchors {word}: give a whole number"):
            resolve_anchors(classifier, word, forget)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [StructGuard, StructGuardPaper])
def test_methods_take_several_anchors_per_class(kind, classifier, forget):
    rows = torch.randn(2 * len(CLASSES), 12, generator=torch.Generator().manual_seed(0))
    several = Anchors(rows, CLASSES, per_class=2)
    method = kind(lr=3e-3, max_steps=2)
    result = method(classifier, forget, anchors=several, seed=0)
    assert result.stakes.shape == (2 * len(CLASSES), classifier.feature_width)
    alone = Anchors(rows[::2], CLASSES)
    other = method(classifier, forget, anchors=alone, seed=0)
    assert result.history[-1]["term_alignment"] != other.history[-1]["term_alignment"]


def test_methods_hold_the_structure_around_them(classifier, forget):
    for word in ("prototypes", "random:0"):
        result = StructGuard(max_steps=2)(classifier, forget, anchors=word, seed=3)
        expected = resolve_anchors(classifier, word, forget, seed=3).vectors
        torch.testing.assert_close(result.stakes, expected)
