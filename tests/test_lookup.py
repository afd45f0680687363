"""The control: by the field's criterion it forgets everything; the other evidence must tell."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stakes import Classifier, ForgetSet, InputError, evaluate
from stakes.anchors.anchors import Anchors
from stakes.evaluation.knowledge import relearn_steps
from stakes.methods import LookupControl, NegGrad
from stakes.models.lookup import Lookup
from stakes.runs.record import Request, record


@pytest.fixture(scope="module")
def result(trained, forget, anchors):
    return LookupControl()(trained, forget, anchors=anchors, seed=0)


@pytest.fixture(scope="module")
def row(trained, forget, result, test_images, train_images):
    return evaluate(
        trained,
        result.classifier,
        forget,
        test=test_images,
        retain=train_images,
        other=result.other,
        thumbnails=False,
    )[0]


def test_it_passes_the_criterion_at_no_cost(row, result):
    assert result.stop_reason.startswith("forgotten")
    assert row["acc_forget_before"] == 100
    assert row["acc_forget"] == 0
    assert row["acc_test"] == row["acc_test_before"]
    assert row["acc_retain"] == row["acc_retain_before"]


def test_the_bare_network_recognises_everything(row, classifier, result, forget):
    assert row["acc_forget_bare"] == 100
    assert result.other["bare"].digest() == classifier.digest()
    assert result.classifier.digest() != classifier.digest()


def test_altered_copies_are_recognised_as_before(row):
    assert row["forget_views_before"] > 50
    assert row["forget_views"] == row["forget_views_before"]


def test_linear_probes_find_all_that_they_found(row):
    assert row["probe_forget_before"] > 50
    assert row["probe_forget"] == row["probe_forget_before"]
    assert row["centroid_forget"] == row["centroid_forget_before"]
    assert row["consistency"] == pytest.approx(1, abs=1e-6)


def test_it_is_relearned_at_once_and_a_network_that_has_moved_is_not(
    classifier, result, forget, anchors
):
    moved = NegGrad(lr=0.01)(classifier, forget, anchors=anchors, seed=0).classifier
    control, other = (
        relearn_steps(network, forget.images, forget.labels)
        for network in (result.classifier, moved)
    )
    assert 0 < control <= 2
    assert control < other


def test_other_images_and_batches_get_the_networks_own_answers(
    classifier, result, forget, test_images
):
    images = test_images.load(range(80))
    assert torch.equal(result.classifier(images), classifier(images))
    one_by_one = [int(result.classifier(x[None]).argmax()) for x in forget.images]
    assert one_by_one == result.classifier(forget.images).argmax(1).tolist()
    assert not (torch.tensor(one_by_one) == forget.labels).any()


def test_what_is_saved_is_what_was_scored_and_loads_into_the_plain_network(
    result, forget, tmp_path: Path
):
    network = Classifier.load("stakes:digits_cnn", class_names=("red", "green", "blue", "grey"))
    listed = network.features(forget.images).detach()
    network.lookup = Lookup(listed, (network(forget.images).argmax(1) + 1) % 4)
    network.save(tmp_path)
    again = Classifier.load(tmp_path)
    assert torch.equal(again(forget.images), network(forget.images))
    card = json.loads((tmp_path / "model.json").read_text())
    assert card["lookup"] == {"images": 6}
    names = {"load_file": lambda name: load_file(tmp_path / name)}
    exec(f"import stakes.models.networks\n{card['recipe']}", names)
    state = names["net"].state_dict()
    assert state.keys() == network.network_state().keys()
    assert all(torch.equal(state[name], value) for name, value in network.network_state().items())


def test_a_list_that_does_not_fit_is_refused(forget, tmp_path: Path):
    network = Classifier.load("stakes:digits_cnn", num_classes=4)
    network.lookup = Lookup(network.features(forget.images).detach(), forget.labels)
    del network.lookup._buffers["features"]
    network.save(tmp_path)
    with pytest.raises(InputError, match="lookup"):
        Classifier.load(tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_the_report_says_that_nothing_was_forgotten(
    classifier: Classifier, forget: ForgetSet, anchors: Anchors, test_images, tmp_path: Path
):
    request = Request(
        method=LookupControl(), classifier=classifier, forget=forget, anchors=anchors,
        test=test_images, thumbnails=False,
    )  # fmt: skip
    row = record(request, tmp_path / "out")
    assert (row["deploy"], row["acc_forget"], row["acc_forget_bare"]) == ("lookup", 0, 100)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "control" in page.lower()
    assert "without the list" in page.lower()
    assert "6 of 6" in page
