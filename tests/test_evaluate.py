"""Scores against slow, obvious versions."""

import base64
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import CLASSES, blobs
from stakes import Classifier, ForgetSet, InputError
from stakes.data.decode import thumbnail
from stakes.data.forget_words import parse_forget
from stakes.data.images import ImageArray
from stakes.data.retain import draw_without
from stakes.data.views import VIEWS
from stakes.evaluation.evaluate import evaluate
from stakes.evaluation.forgetting import forget_scores
from stakes.evaluation.scores import Depth, Scored
from stakes.evaluation.selection import select
from stakes.models.projector import Projector


def one_by_one(classifier: Classifier, images, indices) -> float:
    """Percent right, a single image at a time."""
    right = 0
    with torch.no_grad():
        for i in indices:
            right += int(classifier(images.load([i])).argmax()) == int(images.labels[i])
    return 100 * right / len(indices)


@pytest.fixture
def after(classifier) -> Classifier:
    """The classifier with noise on it, so that it errs sometimes."""
    changed = classifier.copy()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return changed


def test_accuracies_image_by_image(classifier, after, forget, train_images, test_images):
    row, evidence = evaluate(classifier, after, forget, test=test_images, retain=train_images)
    retained = [i for i in range(len(train_images)) if i not in forget.indices]
    assert (row["n_test"], row["n_retain"]) == (80, len(retained)) == (80, 154)
    assert row["acc_test"] < row["acc_test_before"]
    for suffix, network in (("_before", classifier), ("", after)):
        assert row[f"acc_test{suffix}"] == pytest.approx(
            one_by_one(network, test_images, range(80))
        )
        assert row[f"acc_retain{suffix}"] == pytest.approx(
            one_by_one(network, train_images, retained)
        )
        expected = one_by_one(network, train_images, forget.indices)
        assert row[f"acc_forget{suffix}"] == pytest.approx(expected)
        for name, view in VIEWS.items():
            hits = [
                int(network(image[None]).argmax()) == int(label)
                for seen in view(forget.images)
                for image, label in zip(seen, forget.labels, strict=True)
            ]
            assert row[f"{name}{suffix}"] == pytest.approx(100 * sum(hits) / len(hits))
        kinds = [row[f"{name}{suffix}"] for name in VIEWS]
        assert row[f"forget_views{suffix}"] == pytest.approx(sum(kinds) / 6)
    for index, record in enumerate(evidence["classes"]):
        mine = (test_images.labels == index).nonzero()[:, 0].tolist()
        assert (record["name"], record["n_test"]) == (CLASSES[index], len(mine))
        assert record["acc_test"] == pytest.approx(one_by_one(after, test_images, mine))
        assert record["acc_test_before"] == pytest.approx(one_by_one(classifier, test_images, mine))


def test_forget_images_are_left_out_by_their_content_under_other_names(classifier, forget):
    pixels, labels = blobs(40, 2)
    copies = (forget.images * 255).round().to(torch.uint8)
    images = ImageArray(
        torch.cat([pixels, copies]), torch.cat([labels, forget.labels]), prefix="elsewhere"
    )
    row, _ = evaluate(classifier, classifier, forget, test=images, retain=images)
    assert row["n_test"] == row["n_retain"] == 40
    assert row["acc_test"] == pytest.approx(one_by_one(classifier, images, range(40)))


@pytest.mark.usefixtures("unattacked")
def test_the_digest_is_of_the_pixels_the_labels_and_their_number(classifier, forget):
    pixels, labels = blobs(40, 2)
    other = pixels.clone()
    other[7, 0, 0, 0] ^= 1
    kinds = [(pixels, labels), (other, labels), (pixels, labels.flip(0)), (pixels[:9], labels[:9])]
    digests = set()
    for shown, truth in kinds:
        test = ImageArray(shown, truth)
        row, _ = evaluate(classifier, classifier, forget, test=test, thumbnails=False)
        digests.add(row["test_digest"])
    assert len(digests) == len(kinds)


def test_samples_are_as_many_as_asked_and_the_same_for_one_seed(forget, train_images, test_images):
    splits = {"test": test_images, "retain": train_images}
    first = select(forget, **splits, eval_samples=30, seed=4)
    assert first == select(forget, **splits, eval_samples=30, seed=4)
    assert first != select(forget, **splits, eval_samples=30, seed=5)
    assert [len(set(first[name].places)) for name in ("test", "retain")] == [30, 30]
    assert not set(first["retain"].places) & set(forget.indices)
    everything = select(forget, **splits, eval_samples=10**6)
    assert sorted(everything["retain"].places) == sorted(set(range(160)) - set(forget.indices))
    assert len(everything["test"].places) == 80


@pytest.mark.parametrize("tested", [False, True])
def test_scored_images_are_not_those_that_a_method_of_the_same_seed_draws(
    tested, forget, train_images, test_images
):
    generator = torch.Generator().manual_seed(4)
    trained = draw_without(train_images, forget, 30, generator).places
    test = test_images if tested else None
    scored = select(forget, test=test, retain=train_images, eval_samples=30, seed=4)
    assert len(set(scored["retain"].places) & set(trained)) < 15  # 30 * 30 / 154 is 6


def test_samples_are_found_among_many_copies_of_forget_images(forget):
    pixels, labels = blobs(10, 2)
    copies = (forget.images * 255).round().to(torch.uint8).repeat(20, 1, 1, 1)
    images = ImageArray(torch.cat([copies, pixels]), [0] * len(copies) + labels.tolist())
    chosen = select(forget, test=images, eval_samples=8)["test"].places
    assert len(chosen) == 8
    assert min(chosen) >= len(copies)


def test_a_selection_made_before_gives_the_same_row(classifier, after, forget, test_images):
    selected = select(forget, test=test_images, eval_samples=9, seed=3)
    first, _ = evaluate(classifier, after, forget, test=test_images, selected=selected)
    again, _ = evaluate(classifier, after, forget, test=test_images, eval_samples=9, seed=3)
    assert first == again
    with pytest.raises(InputError, match="eval_samples 0"):
        evaluate(classifier, after, forget, test=test_images, eval_samples=0)


def test_what_was_not_measured_is_none(classifier, forget, train_images):
    row, evidence = evaluate(classifier, classifier, forget)
    assert (row["n_test"], row["n_retain"]) == (0, 0)
    for key in ("acc_test", "acc_test_before", "acc_retain", "acc_retain_before"):
        assert row[key] is None
    assert row["acc_forget"] == row["acc_forget_before"] == 100
    assert all(
        record["n_test"] == 0 and record["acc_test"] is None for record in evidence["classes"]
    )
    only = ImageArray((forget.images * 255).round().to(torch.uint8), forget.labels)
    row, _ = evaluate(classifier, classifier, forget, retain=only)
    assert (row["n_retain"], row["acc_retain"]) == (0, None)


def test_whole_classes_are_scored_apart(classifier, after, train_images, test_images):
    whole = parse_forget("classes:green,grey", train_images, CLASSES)
    row, _ = evaluate(classifier, after, whole, test=test_images, retain=train_images)
    assert row["forgotten_classes"] == ["green", "grey"]
    mine = [i for i in range(80) if int(test_images.labels[i]) in (1, 3)]
    rest = sorted(set(range(80)) - set(mine))
    for suffix, network in (("_before", classifier), ("", after)):
        assert row[f"acc_test_forgotten_classes{suffix}"] == pytest.approx(
            one_by_one(network, test_images, mine)
        )
        assert row[f"acc_test_kept_classes{suffix}"] == pytest.approx(
            one_by_one(network, test_images, rest)
        )
    truth = test_images.labels[rest]
    was, now = (net(test_images.load(rest)).argmax(1) == truth for net in (classifier, after))
    counts = [row[f"n_test_kept_classes{key}"] for key in ("", "_lost", "_gained")]
    assert counts == [len(rest), int((was & ~now).sum()), int((now & ~was).sum())]
    assert row["n_retain"] == 80  # no image of the two classes is left
    assert row["retrieval_forget_r1"] is None  # and so there is none to find
    assert row["retrieval_retain_r1"] > 0
    row, _ = evaluate(classifier, after, whole)
    assert row["acc_test_forgotten_classes"] is row["acc_test_kept_classes_before"] is None
    assert row["n_test_kept_classes"] is None
    only = ImageArray(*(part[test_images.labels == 0] for part in blobs(80, 1)))
    row, _ = evaluate(classifier, after, whole, test=only)
    assert row["acc_test_forgotten_classes"] is None
    assert row["acc_test_kept_classes"] == row["acc_test"]


def test_single_images_are_no_whole_classes(classifier, forget, test_images):
    row, _ = evaluate(classifier, classifier, forget, test=test_images)
    assert row["forgotten_classes"] is row["acc_test_forgotten_classes"] is None
    assert row["acc_test_kept_classes"] is row["acc_test_kept_classes_before"] is None


def test_a_class_without_test_images_has_no_accuracy(classifier, forget):
    pixels, labels = blobs(40, 2)
    images = ImageArray(pixels[labels != 2], labels[labels != 2])
    _, evidence = evaluate(classifier, classifier, forget, test=images)
    assert [record["n_test"] for record in evidence["classes"]] == [10, 10, 0, 10]
    assert evidence["classes"][2]["acc_test"] is None


def test_the_other_path_has_its_name_as_suffix(classifier, after, forget, test_images):
    projected = after.copy()
    projected.projector = Projector(after.feature_width)
    with torch.no_grad():
        for parameter in projected.projector.parameters():
            parameter += 1
    row, _ = evaluate(
        classifier, after, forget, test=test_images, other={"projected": projected}
    )  # fmt: skip
    assert row["acc_test_projected"] == pytest.approx(one_by_one(projected, test_images, range(80)))
    assert row["acc_test"] == pytest.approx(one_by_one(after, test_images, range(80)))
    assert {f"{name}_projected" for name in (*VIEWS, "acc_forget", "acc_retain")} <= row.keys()


def test_networks_are_scored_in_eval_mode_and_left_in_theirs(classifier, forget, test_images):
    training = classifier.copy()
    training.train()
    training.body.bn1.eval()
    state = {name: value.clone() for name, value in training.state_dict().items()}
    row, _ = evaluate(classifier, training, forget, test=test_images)
    assert row["acc_test"] == row["acc_test_before"]
    assert training.training
    assert training.body.bn2.training
    assert not training.body.bn1.training
    assert not classifier.training
    assert all(torch.equal(training.state_dict()[name], value) for name, value in state.items())
    broken = ForgetSet(torch.rand(1, 3, 4, 4), torch.tensor([0]), ("small",))
    with pytest.raises(InputError, match="forget images"):
        evaluate(training, training, broken, test=test_images)
    assert training.training


def test_evidence_of_every_forget_image(classifier, after, forget):
    _, evidence = evaluate(classifier, after, forget)
    assert [record["name"] for record in evidence["forget"]] == list(forget.names)
    for i, record in enumerate(evidence["forget"]):
        chances = after(forget.images[i : i + 1]).softmax(1)[0].detach()
        assert record["label"] == CLASSES[int(forget.labels[i])]
        assert record["after"] == CLASSES[int(chances.argmax())]
        assert record["after_confidence"] == pytest.approx(
            100 * float(chances.max().detach()), rel=1e-4
        )
        assert record["before"] == record["label"]
        label = int(forget.labels[i])
        mirrored = after(forget.images[i : i + 1].flip(3)).softmax(1)[0].detach()
        for prefix, seen in (("", chances), ("mirrored_", mirrored)):
            probability = record["mirrored_after" if prefix else "true_after"]
            assert probability == pytest.approx(100 * float(seen[label]), rel=1e-4)
            assert record[f"{prefix}rank_after"] == 1 + int((seen > seen[label]).sum())
        copies = [copy[i : i + 1] for view in VIEWS.values() for copy in view(forget.images)]
        answers = [after(copy).softmax(1)[0].detach() for copy in copies]
        assert record["copies"] == len(copies) == 14
        assert record["copies_after"] == sum(int(a.argmax()) == label for a in answers)
        most = max(float(a[label]) for a in answers)
        assert record["copies_most_after"] == pytest.approx(100 * most, rel=1e-4)
    _, evidence = evaluate(classifier, after, forget, thumbnails=False)
    assert all(record["thumbnail"] is None for record in evidence["forget"])


def test_an_answer_that_is_the_true_class_has_the_same_probability_as_both(classifier, forget):
    _, evidence = evaluate(classifier, classifier, forget)
    for record in evidence["forget"]:
        assert record["rank_before"] == 1
        assert record["before_confidence"] == record["true_before"]


def test_the_depth_in_the_row_is_that_of_the_images_in_the_evidence(classifier, after, forget):
    row, evidence = evaluate(classifier, after, forget, other={"direct": classifier})
    record = evidence["forget"]
    for suffix, when in (("_before", "before"), ("", "after"), ("_direct", "before")):
        ranks = [image[f"rank_{when}"] for image in record]
        shares = [image[f"true_{when}"] for image in record]
        assert row[f"forget_top2{suffix}"] == pytest.approx(100 * sum(r <= 2 for r in ranks) / 6)
        assert row[f"acc_forget{suffix}"] == pytest.approx(100 * sum(r == 1 for r in ranks) / 6)
        assert row[f"forget_true_probability{suffix}"] == pytest.approx(sum(shares) / 6)
        assert row[f"forget_true_probability_max{suffix}"] == pytest.approx(max(shares))
        assert row[f"forget_top5{suffix}"] is None  # four classes only
        flipped = [image[f"mirrored_rank_{when}"] for image in record]
        assert row[f"forget_flip{suffix}"] == pytest.approx(100 * sum(r == 1 for r in flipped) / 6)
    assert row["forget_views_top2"] >= row["forget_views"]


@pytest.mark.parametrize("classes", [10, 11])
def test_depth_in_the_row_by_hand(classes):
    logits, labels = -torch.arange(classes).repeat(classes, 1).double(), torch.arange(classes)
    images = Scored(torch.zeros(classes, 1), logits, labels)  # of rank 1, 2, 3 ...
    copies = {
        name: [
            Depth(torch.tensor([float(i), 3.0]), torch.tensor([rank, 3])) for i in range(1, 1 + n)
        ]
        for name, n, rank in (("one", 1, 2), ("many", 4, 1))
    }
    suffixes = ("_before", "")
    row = forget_scores(dict.fromkeys(suffixes, images), dict.fromkeys(suffixes, copies))
    shares = [100 * math.exp(-i) / sum(math.exp(-j) for j in range(classes)) for i in labels]
    for suffix in suffixes:
        assert row[f"acc_forget{suffix}"] == pytest.approx(100 / classes)
        assert row[f"forget_top2{suffix}"] == pytest.approx(200 / classes)
        five = None if classes == 10 else pytest.approx(500 / 11)
        assert row[f"forget_top5{suffix}"] == five
        assert row[f"forget_true_probability{suffix}"] == pytest.approx(sum(shares) / classes)
        assert row[f"forget_true_probability_max{suffix}"] == pytest.approx(shares[0])
        # every kind counts the same, however many copies it has
        assert (row[f"one{suffix}"], row[f"many{suffix}"]) == (0, 50)
        assert row[f"forget_views{suffix}"] == 25
        assert row[f"forget_views_top2{suffix}"] == 50
        mean = ((1 + 3) / 2 + (2.5 + 3) / 2) / 2
        assert row[f"forget_views_true_probability{suffix}"] == pytest.approx(mean)
    assert [row[f"n_{key}"] for key in ("forgotten", "recognised", "never_recognised")] == [
        0, 1, classes - 1
    ]  # fmt: skip


def test_only_what_was_recognised_before_can_be_forgotten(classifier, forget, test_images):
    wrong = ForgetSet(forget.images, (forget.labels + 1) % 4, forget.names)
    row, evidence = evaluate(classifier, classifier, wrong, test=test_images)
    assert (row["n_forgotten"], row["n_recognised"], row["n_never_recognised"]) == (0, 0, 6)
    assert {image["state"] for image in evidence["forget"]} == {"never recognised"}
    assert (row["foretold"], row["n_wrong"]) == (None, 6)
    assert (row["n_test_lost"], row["n_test_gained"]) == (0, 0)
    turned = classifier.copy()  # every class answers with the next one, so these labels come true
    with torch.no_grad():
        turned.head.weight.copy_(classifier.head.weight.roll(1, 0))
        turned.head.bias.copy_(classifier.head.bias.roll(1, 0))
    row, _ = evaluate(classifier, turned, wrong, test=test_images)
    assert (row["n_forgotten"], row["n_recognised"], row["n_never_recognised"]) == (0, 6, 0)
    row, _ = evaluate(classifier, turned, forget, test=test_images)
    assert (row["n_forgotten"], row["n_recognised"], row["n_never_recognised"]) == (6, 0, 0)
    right = round(row["acc_test_before"] * 80 / 100)
    assert row["n_test_lost"] == right
    assert row["n_test_gained"] == round(row["acc_test"] * 80 / 100)


def test_a_thumbnail_shows_the_image():
    image = (torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).round() / 255

    def shown(one):
        start, _, data = thumbnail(one).partition(",")
        assert start == "data:image/png;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))

    assert np.array_equal(shown(image), (image * 255).permute(1, 2, 0).numpy())
    assert shown(torch.zeros(3, 200, 200)).shape == (64, 64, 3)


def test_progress_is_reported_to_the_end(classifier, forget, test_images):
    seen = []
    evaluate(
        classifier, classifier, forget, test=test_images,
        progress=lambda phase, done, total, note="": seen.append((phase, done, total)),
    )  # fmt: skip
    assert seen == [
        ("reading test", 80, 80),
        ("scoring test", 80, 80),
        *(("looking for traces", done, 8) for done in range(9)),
    ]
