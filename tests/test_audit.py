"""The measures beyond accuracy on networks of which it is known what they should say."""

import math

import pytest
import torch
from torch import nn

from conftest import CLASSES, blobs
from stakes import Classifier, ForgetSet
from stakes.data.images import ImageArray
from stakes.data.retain import Drawn
from stakes.data.views import VIEWS
from stakes.evaluation.audit import (
    AUDITED,
    BEGINNINGS,
    MEMBERSHIP,
    audit_answers,
    audit_consistency,
    audit_likeness,
    audit_membership,
    audit_relearning,
)
from stakes.evaluation.contrast import AT_ONCE, CONTRASTED, audit_contrast, contrast
from stakes.evaluation.evaluate import evaluate
from stakes.evaluation.knowledge import rf_jsd
from stakes.evaluation.membership import answer_scores, separation
from stakes.evaluation.reference import BEGINNING
from stakes.evaluation.retrieval import retrieve, retrieve_among
from stakes.evaluation.scores import BeforeAfter, Sample, Scored, depth
from stakes.methods import LookupControl
from stakes.rows import METRICS

WHOLE = {"acc_test_forgotten_classes", "acc_test_kept_classes"}  # of whole classes alone
ROW = METRICS.keys() - WHOLE - {"drift_probes"}  # which the method's own history gives


@pytest.fixture(scope="module")
def unseen() -> ImageArray:
    return ImageArray(*blobs(240, 5), prefix="unseen")


@pytest.fixture(scope="module")
def unchanged(trained, forget, train_images, unseen):
    """The row and the evidence of a network that nothing was done to."""
    return evaluate(trained, trained, forget, test=unseen, retain=train_images)


def collapsed(*arguments):
    raise ValueError("features of one value alone")


def test_the_measures_of_audits_that_fail_are_in_the_row(
    trained, forget, train_images, unseen, monkeypatch
):
    for name in BEGINNINGS:
        monkeypatch.setattr(f"stakes.evaluation.audit.audit_{name}", collapsed)
    row, _ = evaluate(trained, trained, forget, test=unseen, retain=train_images)
    assert row["audits_failed"].count("one value") == len(BEGINNINGS)
    assert row.keys() >= ROW


def test_an_audit_that_fails_is_not_measured_and_costs_nothing_else(
    unchanged, trained, forget, train_images, unseen, monkeypatch
):
    whole, _ = unchanged
    monkeypatch.setattr("stakes.evaluation.audit.audit_retrieval", collapsed)
    row, evidence = evaluate(trained, trained, forget, test=unseen, retain=train_images)
    assert row["audits_failed"] == "retrieval (features of one value alone)"
    assert row["retrieval_retain_map"] is row["retrieval_forget_r1_before"] is None
    retained = {key: value for key, value in whole.items() if not key.startswith("retrieval_")}
    assert {key: row[key] for key in retained} == retained | {"audits_failed": row["audits_failed"]}
    assert row.keys() == whole.keys()
    assert evidence["membership"]


def test_every_metric_is_in_the_row_and_in_its_range(unchanged):
    row, evidence = unchanged
    assert row.keys() >= ROW
    for key in ROW - {
        "forget_top5",
        "foretold",
        "answer_entropy",
        "relearn_forget",
        "relearn_test",
        *(key for key in ROW if key.startswith(BEGINNING)),  # without a reference
    }:
        assert row[key] is not None, key
        top = {"%": 100, "AUC": 1, "": 1, "bits": 1}[METRICS[key].unit]
        assert 0 <= row[key] <= top + 1e-6
    assert (row["n_audit_test"], row["n_audit_retain"], row["n_probe"]) == (240, 154, 60)
    recorded = {"membership", "consistency", "saliency", "retrieval", "affinities", "duplicates"}
    assert evidence.keys() == {"classes", "forget", *recorded}


def test_where_nothing_was_changed_nothing_has_changed(unchanged):
    row, evidence = unchanged
    for key in (key for key in ROW if f"{key}_before" in row):
        assert row[key] == row[f"{key}_before"]
    assert (row["consistency"], row["consistency_low"]) == pytest.approx((1, 1))
    assert (row["n_wrong"], row["foretold"], row["answer_entropy"]) == (0, None, None)
    assert row["relearn_forget"] is row["relearn_test"] is None  # there is nothing to relearn
    for item in evidence["saliency"]:
        assert item["before"] == item["after"] != item["image"]


def test_without_data_nothing_but_the_forget_images_is_measured(classifier, forget, unseen):
    row, evidence = evaluate(classifier, classifier, forget)
    measured = {key for key in ROW if row[key] is not None}
    own = {key for key in ROW if key.startswith(("acc_forget", "forget_"))}
    assert measured == own - {"forget_top5"}  # of four classes
    assert evidence["membership"] == evidence["consistency"] == []
    row, _ = evaluate(classifier, classifier, forget, test=unseen)
    assert all(row[key] is None for key in (*MEMBERSHIP, "consistency", "retrieval_retain_map"))
    assert row["probe_forget"] is not None


def test_a_method_that_only_turns_the_head_leaves_what_the_features_know(
    classifier, forget, train_images, unseen
):
    turned = classifier.copy()
    with torch.no_grad():  # every class answers with the next one
        turned.head.weight.copy_(classifier.head.weight.roll(1, 0))
        turned.head.bias.copy_(classifier.head.bias.roll(1, 0))
    row, _ = evaluate(classifier, turned, forget, test=unseen, retain=train_images)
    assert row["acc_forget"] == 0
    assert row["probe_forget"] == row["probe_forget_before"] == 100
    assert row["retrieval_forget_map"] == row["retrieval_forget_map_before"] > 60
    assert row["centroid_forget"] == row["centroid_forget_before"]
    assert row["consistency"] == pytest.approx(1)
    assert row["n_wrong"] == row["n_relearn"] == 6
    assert 0 < row["relearn_forget"] <= row["relearn_limit"] + 1
    answers = [(int(label) + 1) % 4 for label in forget.labels]
    second = classifier(forget.images).detach().scatter(1, forget.labels[:, None], -1e9).argmax(1)
    hits = [a == int(b) for a, b in zip(answers, second, strict=True)]
    assert row["foretold"] == pytest.approx(100 * sum(hits) / 6)


@pytest.fixture(scope="module")
def noise():
    """Images without any pattern, with labels at random: they can only be learned by heart."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (320, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(4, (320,), generator=generator)
    return ImageArray(pixels[:120], labels[:120]), ImageArray(pixels[120:], labels[120:])


@pytest.fixture(scope="module")
def leaky(noise) -> Classifier:
    train, _ = noise
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Flatten(), nn.Linear(192, 128), nn.ReLU(), nn.Linear(128, 4))
        classifier = Classifier.wrap(body, class_names=CLASSES, input_size=8, mean=0.5, std=0.3)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.003)
    images = train.load(range(120))
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(classifier(images), train.labels).backward()
        optimizer.step()
    return classifier.eval()


def test_a_network_that_learned_by_heart_leaks_and_over_unlearning_shows(leaky, noise):
    train, test = noise
    forget = ForgetSet.from_indices(train, range(10))
    pushed = leaky.copy()
    optimizer = torch.optim.Adam(pushed.parameters(), lr=0.01)
    for _ in range(200):
        losses = nn.functional.cross_entropy(pushed(forget.images), forget.labels, reduction="none")
        optimizer.zero_grad()
        (-losses.clamp_max(20)).mean().backward()
        optimizer.step()
    assert losses.min() > 15
    row, evidence = evaluate(leaky, pushed, forget, test=test, retain=train)
    assert row["mia_retain_before"] > 0.95
    assert row["mia_retain_found_before"] > 20
    assert row["mia_forget_before"] > 0.9
    assert row["mia_forget_loss_before"] > 0.9
    assert row["mia_forget_loss"] < 0.1
    assert row["mia_forget_unlikely"] > row["mia_forget_unlikely_before"] == 0
    assert len(evidence["membership"]) == 4 * 2 * 2 + 1
    for record in evidence["membership"]:
        assert record["m"] == {"retain": 110, "forget": 10}[record["of"]]
        assert record["n"] == 200
        assert 0 <= record["low"] <= record["auc"] <= record["high"] <= 1
    assert evidence["saliency"] == []  # a network without maps


def test_the_attack_by_loss_is_that_on_all_scored_images(unchanged, classifier, forget, unseen):
    row, _ = unchanged
    with torch.no_grad():
        losses = [
            -answer_scores(classifier(images), labels)[:, 0]
            for images, labels in (
                (forget.images, forget.labels),
                (unseen.load(range(240)), unseen.labels),
            )
        ]
    assert row["mia_forget_loss"] == pytest.approx(separation(*losses).auc)


def test_a_network_that_broke_down_is_not_measured_and_harms_nothing(
    classifier, forget, train_images, unseen
):
    broken = classifier.copy()
    with torch.no_grad():
        broken.head.weight.fill_(float("nan"))
    row, evidence = evaluate(classifier, broken, forget, test=unseen, retain=train_images)
    keys = (*MEMBERSHIP, "probe_forget", "consistency", "relearn_forget", "rf_jsd")
    keys += ("retrieval_forget_map", "retrieval_retain_map", "contrast_forget")
    assert all(row[key] is None for key in keys)
    assert row["audits_failed"] is None
    assert row["mia_retain_before"] is not None
    assert {record["when"] for record in evidence["membership"]} == {"before"}


def test_each_scored_image_is_read_once(classifier, forget):
    class Counted(ImageArray):
        loaded = 0

        def load(self, indices):
            self.loaded += len(indices)
            return super().load(indices)

    count = AUDITED + 300
    test = Counted(*blobs(count, 7))
    selected = {"test": Drawn(list(range(count)), count, [])}
    row, _ = evaluate(classifier, classifier, forget, test=test, selected=selected)
    assert row["n_test"] == count
    assert test.loaded == count + CONTRASTED  # these again, for their copies
    assert row["n_audit_test"] == AUDITED


def test_relearning_is_compared_with_test_images_that_are_wrong_too(classifier, forget, unseen):
    odd = classifier.copy()
    with torch.no_grad():
        odd.head.bias[3] += 1000  # everything is grey
    before = {name: value.clone() for name, value in odd.state_dict().items()}
    row, _ = evaluate(classifier, odd, forget, test=unseen, eval_samples=40)
    assert row["n_relearn"] == 6
    assert row["relearn_forget"] == row["relearn_test"] == row["relearn_limit"] + 1
    assert all(torch.equal(odd.state_dict()[name], value) for name, value in before.items())
    assert row["answer_entropy"] == 0


def test_only_what_was_recognised_before_is_relearned(classifier, forget, unseen):
    odd = classifier.copy()
    with torch.no_grad():
        odd.head.bias[3] += 1000
    labels = forget.labels.clone()
    labels[:2] = (labels[:2] + 1) % 4  # never recognised
    some = ForgetSet(forget.images, labels, forget.names)
    row, _ = evaluate(classifier, odd, some, test=unseen, eval_samples=40)
    known = (forget.labels[2:] != 3).sum()
    assert row["n_relearn"] == row["n_forgotten"] == int(known) > 0


@pytest.mark.parametrize(("wrong", "count"), [(30, 16), (3, 3)])
def test_as_many_test_images_as_forgotten_ones_are_relearned(
    wrong, count, classifier, train_images, unseen, monkeypatch
):
    given = []

    def watched(network, images, labels):
        given.append((images, labels))
        return 7

    monkeypatch.setattr("stakes.evaluation.audit.relearn_steps", watched)

    def answered(labels, shift):
        """Logits whose largest one is so many classes from the label."""
        logits = nn.functional.one_hot((labels + shift) % 4, 4).float()
        return Scored(torch.zeros(len(labels), 1), logits, labels)

    forget = ForgetSet.from_indices(train_images, range(20))
    scored = {"_before": answered(forget.labels, 0), "": answered(forget.labels, 1)}
    places = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
    shift = (torch.arange(40) >= 40 - wrong).long()
    sample = Sample({"": answered(unseen.labels[places], shift)}, unseen, places)
    row = audit_relearning(classifier, forget, scored, sample)
    assert (row["n_relearn"], row["relearn_forget"], row["relearn_test"]) == (count, 7, 7)
    missed = places[40 - wrong :][:count]
    own, others = given
    assert torch.equal(own[0], forget.images[:count])
    assert torch.equal(own[1], forget.labels[:count])
    assert torch.equal(others[0], unseen.load(missed))
    assert torch.equal(others[1], unseen.labels[missed])


def test_images_are_left_out_of_the_evidence_on_request(classifier, forget):
    _, shown = evaluate(classifier, classifier, forget)
    assert [item["name"] for item in shown["saliency"]] == list(forget.names)
    _, hidden = evaluate(classifier, classifier, forget, thumbnails=False)
    assert hidden["saliency"] == []


def test_the_same_networks_give_the_same_numbers(unchanged, trained, forget, train_images, unseen):
    torch.rand(7)  # global randomness has no part
    assert evaluate(trained, trained, forget, test=unseen, retain=train_images) == unchanged


def test_wrong_answers_alone_count_where_some_images_are_still_right():
    before = torch.tensor([[3.0, 2, 1], [3, 2, 1], [3, 1, 2], [1, 3, 2]])
    after = torch.tensor([[1.0, 2, 0], [0, 1, 2], [3, 1, 2], [1, 3, 2]])  # answers 1, 2, 0, 1
    labels = torch.tensor([0, 0, 0, 1])
    scored = {
        suffix: Scored(torch.zeros(4, 1), z, labels)
        for suffix, z in (("_before", before), ("", after))
    }
    row = audit_answers(scored)
    assert row == {"n_wrong": 2, "foretold": 50.0, "answer_entropy": 1.0}


def test_an_image_that_was_wrong_before_has_no_new_answer():
    before = torch.tensor([[3.0, 2, 1], [1, 3, 2]])
    after = torch.tensor([[0.0, 1, 2], [0, 1, 0]])
    scored = {
        suffix: Scored(torch.zeros(2, 1), z, torch.tensor([0, 0]))
        for suffix, z in (("_before", before), ("", after))
    }
    assert audit_answers(scored) == {"n_wrong": 2, "foretold": 0.0, "answer_entropy": 1.0}


def drawn(seed: int, n: int = 60) -> BeforeAfter:
    """Features, logits and labels of images, before and after."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    return {
        suffix: Scored(
            torch.rand(n, 5, generator=generator), torch.randn(n, 3, generator=generator), labels
        )
        for suffix in ("_before", "")
    }


def test_both_networks_are_compared_with_what_the_original_says_of_unseen_images():
    forget, unseen = drawn(0), drawn(1)
    expected = unseen["_before"].logits, unseen["_before"].labels
    row = audit_likeness(forget, unseen)
    for suffix in ("_before", ""):
        assert row[f"rf_jsd{suffix}"] == rf_jsd(*forget[suffix][1:], *expected) > 0


def test_consistency_one_by_one():
    retained = drawn(2)
    row, _ = audit_consistency(retained)
    before, after = (retained[suffix].features.double() for suffix in ("_before", ""))
    cosines = sorted(float(a @ b / a.norm() / b.norm()) for a, b in zip(before, after, strict=True))
    assert row["consistency"] == pytest.approx(sum(cosines) / 60)
    assert row["consistency_low"] == pytest.approx(0.05 * cosines[2] + 0.95 * cosines[3], rel=0.01)
    assert cosines[2] < row["consistency_low"] < cosines[3]


@pytest.mark.parametrize(
    ("retained", "unseen", "measured"), [(5, 5, True), (4, 5, False), (5, 4, False)]
)
def test_an_attack_needs_five_images_of_each_kind(retained, unseen, measured):
    row, evidence = audit_membership(drawn(0), drawn(1, unseen), drawn(2, retained))
    assert {row[key] is not None for key in ("mia_retain", "mia_forget_before")} == {measured}
    assert len(evidence) == (16 if measured else 0)


def test_features_of_two_kinds_of_networks_are_not_compared():
    retained = drawn(2)
    wide = retained[""]._replace(features=torch.rand(60, 7))
    row, densities = audit_consistency({**retained, "": wide})
    assert row == {"consistency": None, "consistency_low": None}
    assert densities == []


def test_unseen_images_are_shown_in_the_same_altered_copies(classifier, forget, unseen):
    places = [*range(AT_ONCE), *range(101, 101 + AT_ONCE)]  # the next ones are of other classes
    groups = (forget.images, forget.labels), (unseen.load(places), unseen.labels[places])
    answers, scores = [], []
    with torch.no_grad():
        for images, labels in groups:
            shown = [images, *(copy for view in VIEWS.values() for copy in view(images))]
            answers.append([depth(classifier(copy), labels) for copy in shown])
            own, *copies = (answer.probability.log() for answer in answers[-1])
            scores.append((torch.stack(copies).quantile(0.5, 0) - own).numpy())
        scored, known = (Scored(*classifier.both(x), labels) for x, labels in groups)
    sample = Sample({"": known}, unseen, places)
    row, _ = audit_contrast(classifier, scored, answers[0][1:], sample)
    assert row["contrast_forget"] == pytest.approx(separation(*scores).auc)
    assert 0 < row["contrast_forget"] < 1


def test_retrieval_is_of_the_features_that_were_scored(classifier, forget, train_images):
    blind = classifier.copy()
    with torch.no_grad():
        blind.head.weight.copy_(classifier.head.weight.roll(1, 0))  # it is not read
        colours = blind.body.conv1.weight
        colours.copy_(colours.mean(1, keepdim=True).expand_as(colours))
    row, _ = evaluate(classifier, blind, forget, retain=train_images)
    retained = [i for i in range(160) if i not in forget.indices]
    labels = train_images.labels[retained]
    for suffix, network in (("_before", classifier), ("", blind)):
        with torch.no_grad():
            gallery = network.features(train_images.load(retained))
            queries = network.features(forget.images)
        for of, found in (
            ("retain", retrieve_among(gallery, labels)),
            ("forget", retrieve(queries, forget.labels, gallery, labels)),
        ):
            for name in ("r1", "r5", "r10", "map"):
                expected = pytest.approx(getattr(found, name), abs=0.5)
                assert row[f"retrieval_{of}_{name}{suffix}"] == expected
    assert row["retrieval_retain_map"] < row["retrieval_retain_map_before"] - 20


def test_the_contrast_with_copies_is_their_median_less_the_image(trained, forget, unseen):
    """By hand for one image, and by what it is of a network that changed on the images alone."""
    own, copies = torch.tensor([0.2]), torch.tensor([[0.4], [0.1], [0.8]])
    assert contrast(own, copies) == pytest.approx([math.log(0.4) - math.log(0.2)])
    assert 500 < contrast(torch.zeros(1), copies)[0] < math.inf
    hidden = LookupControl()(trained, forget, anchors="head", seed=0).classifier
    row, evidence = evaluate(trained, hidden, forget, test=unseen)
    assert row["contrast_forget"] > 0.95
    assert row["contrast_forget_found"] == 100
    [record] = [record for record in evidence["membership"] if record["attack"] == "copies"]
    assert (record["m"], record["n"], record["auc"]) == (6, 240, row["contrast_forget"])
    row, _ = evaluate(trained, trained, forget, test=unseen)
    assert 0.2 < row["contrast_forget"] < 0.8
    assert row["contrast_forget_found"] == 0
    row, _ = evaluate(trained, trained, forget)
    assert row["contrast_forget"] is row["contrast_forget_found"] is None
