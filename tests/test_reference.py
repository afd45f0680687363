"""A network beside a reference: agreement, divergence and gap, image by image."""

import json
import math

import pytest
import torch
from PIL import Image

from conftest import CLASSES
from stakes import Classifier, InputError
from stakes.cli.commands import main
from stakes.evaluation.evaluate import evaluate

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn", "unattacked")]


def noisy(network: Classifier, seed: int) -> Classifier:
    """The network with noise on it."""
    changed = network.copy()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return changed


@pytest.fixture
def other(classifier) -> Classifier:
    return noisy(classifier, 2)


def test_against_a_reference_image_by_image(classifier, other, forget, train_images, test_images):
    row, _ = evaluate(
        classifier, classifier, forget, test=test_images, retain=train_images, reference=other
    )
    retained = [i for i in range(len(train_images)) if i not in forget.indices]
    samples = {
        "forget": (train_images, forget.indices),
        "test": (test_images, range(len(test_images))),
        "retain": (train_images, retained),
    }
    gaps = []
    for name, (images, places) in samples.items():
        alike, bits, right, theirs = 0, 0.0, 0, 0
        for i in places:
            with torch.no_grad():
                q, p = (n(images.load([i])).double().softmax(1)[0] for n in (classifier, other))
            alike += int(q.argmax() == p.argmax())
            bits += sum(
                float(a) * math.log2(float(a) / float(b)) for a, b in zip(p, q, strict=True)
            )
            right += int(q.argmax()) == int(images.labels[i])
            theirs += int(p.argmax()) == int(images.labels[i])
        n = len(places)
        assert row[f"reference_agreement_{name}"] == pytest.approx(100 * alike / n)
        assert row[f"reference_kl_{name}"] == pytest.approx(bits / n, rel=1e-4)
        assert row[f"acc_{name}_reference"] == pytest.approx(100 * theirs / n)
        gaps.append(100 * abs(right - theirs) / n)
    assert row["reference_gap"] == pytest.approx(sum(gaps) / 3)
    assert 0 < row["reference_agreement_test"] < 100  # the noise shows


def test_a_network_is_no_way_from_itself(classifier, other, forget, test_images):
    row, _ = evaluate(classifier, other, forget, test=test_images, reference=other.train())
    assert other.training  # put back as it was
    assert row["reference_gap"] == row["reference_kl_test"] == row["reference_kl_forget"] == 0
    assert row["reference_agreement_test"] == row["reference_agreement_forget"] == 100
    assert row["reference_gap_before"] > 0
    assert row["reference_kl_retain"] is row["acc_retain_reference"] is None


def test_a_reference_reads_no_image_again(classifier, other, forget, test_images, monkeypatch):
    read = []
    load = type(test_images).load
    monkeypatch.setattr(
        type(test_images), "load", lambda own, places: read.append(len(places)) or load(own, places)
    )
    evaluate(classifier, classifier, forget, test=test_images)
    alone = sum(read)
    read.clear()
    evaluate(classifier, classifier, forget, test=test_images, reference=other)
    assert sum(read) == alone > 0


def test_without_a_reference_nothing_is_measured(classifier, forget, test_images):
    row, _ = evaluate(classifier, classifier, forget, test=test_images)
    assert row["reference_gap"] is row["reference_agreement_test"] is None


def test_a_reference_of_other_classes_is_refused(classifier, forget):
    other = classifier.copy()
    other.class_names = tuple(reversed(classifier.class_names))
    with pytest.raises(InputError, match="reference"):
        evaluate(classifier, classifier, forget, reference=other)


def drawn(seed: int, names: list[str]) -> Classifier:
    """A network with random weights that a folder can hold."""
    network = Classifier.load("stakes:digits_cnn", class_names=names, input_size=8)
    return noisy(network, seed)


def test_the_command_line_compares_with_a_saved_network(train_images, tmp_path, capsys):
    for i, label in enumerate(train_images.labels[:8].tolist()):
        file = tmp_path / "forget" / CLASSES[label] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = (train_images.load([i])[0] * 255).round().byte().permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(file)
    drawn(0, CLASSES).save(tmp_path / "net")
    other = drawn(1, CLASSES)
    other.save(tmp_path / "retrained")
    words = ["--model", f"{tmp_path}/net", "--forget", f"{tmp_path}/forget"]
    words += ["--reference", f"{tmp_path}/retrained"]
    assert main(["evaluate", *words, "--unlearned", f"{tmp_path}/retrained"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["reference_agreement_forget"] == 100
    assert row["reference_kl_forget"] == 0 < row["reference_kl_forget_before"]
    assert row["reference_digest"] == other.digest()
    command = ["unlearn", *words, "--method", "neggrad", "--max-steps", "1", "--quiet", "--force"]
    assert main([*command, "--out", f"{tmp_path}/OUT"]) in (0, 3)
    written = json.loads((tmp_path / "OUT" / "row.json").read_text())
    assert written["reference_digest"] == other.digest()
    assert "points from the reference" in (tmp_path / "OUT" / "report.html").read_text()
    drawn(2, CLASSES[::-1]).save(tmp_path / "another")
    words[-1] = f"{tmp_path}/another"
    assert main(["unlearn", *words, "--out", f"{tmp_path}/OUT2"]) == 2
    assert "reference" in capsys.readouterr().err
    assert not (tmp_path / "OUT2").exists()
