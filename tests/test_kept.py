"""Interrupted scoring resumes: no image passes a network twice, and the row has the same bits."""

import pickle
from collections import Counter
from dataclasses import replace

import pytest
import torch

from conftest import blobs
from stakes import METHODS
from stakes.data.images import ImageArray
from stakes.evaluation import accuracy, audit, forgetting, kept
from stakes.evaluation.kept import Kept
from stakes.report import page
from stakes.runs.folder import checkpoint_beside, resumable
from stakes.runs.record import Request, record

METHOD = METHODS["neggrad"](lr=1e-3, max_steps=2)


@pytest.fixture(scope="module", autouse=True)
def _lean():
    """Nobody looks at the report here, or at audits of more than a batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write_report", lambda folders, out: out.touch())
        patch.setattr(accuracy, "AUDITED", 256)
        yield


class Passed(Counter):
    """How many images passed each network while sets were scored."""

    def watch(self, monkeypatch):
        plain = accuracy.score

        def score(network, images, labels):
            self[network.digest()[:8]] += len(images)
            return plain(network, images, labels)

        monkeypatch.setattr(accuracy, "score", score)
        return self


def stop_in(phase_to_stop, after):
    def progress(phase, done, total, note=""):
        if phase == phase_to_stop and done >= after:
            raise KeyboardInterrupt

    return progress


def requested(classifier, forget, anchors):
    test, retain = ImageArray(*blobs(600, 1), prefix="t"), ImageArray(*blobs(900, 0), prefix="r")
    return Request(METHOD, classifier, forget, anchors, retain=retain, test=test, force=True)


@pytest.fixture
def request_(classifier, forget, anchors):
    return requested(classifier, forget, anchors)


@pytest.fixture(scope="module")
def uninterrupted(trained, forget, anchors, tmp_path_factory):
    """The row and the evidence of the same request without an interruption."""
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    row = record(requested(trained.copy(), forget, anchors), out)
    return row, (out / "evidence.json").read_text()


def measured(row):
    passing = ("seconds_", "peak_memory")
    return {key: value for key, value in row.items() if not key.startswith((*passing, "date"))}


def interrupted(request, out):
    """Scores all 600 test images and the first 512 of the retained ones."""
    with pytest.raises(KeyboardInterrupt):
        record(request, out, stop_in("scoring retain", 512))
    assert resumable(out)
    return sorted(checkpoint_beside(out).glob("scored-*"))


def test_no_image_passes_twice(uninterrupted, request_, tmp_path, monkeypatch):
    whole, evidence = uninterrupted
    interrupted(request_, tmp_path / "out")
    passed = Passed().watch(monkeypatch)
    row = record(request_, tmp_path / "out")
    assert measured(row) == measured(whole)
    left = whole["n_retain"] - 512
    assert left > 256
    assert list(passed.values()) == [left, left]  # by the original and by the unlearned network
    assert (tmp_path / "out" / "evidence.json").read_text() == evidence
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_images_to_forget_and_their_copies_pass_once(
    uninterrupted, request_, tmp_path, monkeypatch
):
    """Interrupted once the original has passed them: only the unlearned network is left."""
    whole, _ = uninterrupted
    passed, plain = [], forgetting.score

    def score(network, images, labels):
        passed.append(network.digest())
        if len(passed) == 2:
            raise KeyboardInterrupt
        return plain(network, images, labels)

    monkeypatch.setattr(forgetting, "score", score)
    with pytest.raises(KeyboardInterrupt):
        record(request_, tmp_path / "out")
    row = record(request_, tmp_path / "out")
    assert measured(row) == measured(whole)
    original, unlearned = whole["weights_digest"], whole["unlearned_digest"]
    assert passed == [original, unlearned, unlearned]


def test_finished_audits_are_not_repeated(request_, tmp_path, monkeypatch):
    """Interrupted after five of seven: only relearning, the longest, and what follows are left."""
    whole = record(request_, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        record(request_, tmp_path / "out", stop_in("looking for traces", 5))
    measured_now = []
    for name in ("membership", "features", "retrieval", "answers", "likeness", "relearning"):
        plain = getattr(audit, f"audit_{name}")

        def watched(*given, name=name, plain=plain):
            measured_now.append(name)
            return plain(*given)

        monkeypatch.setattr(audit, f"audit_{name}", watched)
    row = record(request_, tmp_path / "out")
    assert measured_now == ["relearning"]
    assert measured(row) == measured(whole)
    assert row["audits_failed"] is None
    evidence = [(tmp_path / name / "evidence.json").read_text() for name in ("whole", "out")]
    assert evidence[0] == evidence[1]


def test_audits_of_other_images_are_repeated(request_, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        record(request_, tmp_path / "out", stop_in("looking for traces", 7))
    fewer = replace(request_, eval_samples=300)
    whole = record(fewer, tmp_path / "whole")
    assert measured(record(fewer, tmp_path / "out")) == measured(whole)


def test_a_file_is_written_now_and_then(request_, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "EVERY", 0.0)
    assert len(interrupted(request_, tmp_path / "out")) == 3 + 2  # one for each batch of 256


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        flip,
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(pickle.dumps(Bomb())),
        lambda file: file.chmod(0o666),
    ],
)
def test_a_file_that_cannot_be_trusted_is_passed_over(
    spoil, uninterrupted, request_, tmp_path, monkeypatch
):
    whole, _ = uninterrupted
    (file,) = interrupted(request_, tmp_path / "out")
    spoil(file)
    passed = Passed().watch(monkeypatch)
    row = record(request_, tmp_path / "out")
    assert measured(row) == measured(whole)
    assert set(passed.values()) == {600 + whole["n_retain"]}
    assert not checkpoint_beside(tmp_path / "out").exists()


def test_other_images_are_scored_anew(request_, tmp_path, monkeypatch):
    """The images changed under the same names between two starts: nothing of theirs is used."""
    interrupted(request_, tmp_path / "out")
    request_.test.pixels[:, 0, 0, 0] ^= 1
    passed = Passed().watch(monkeypatch)
    row = record(request_, tmp_path / "out")
    assert set(passed.values()) == {600 + row["n_retain"] - 512}
    assert measured(row) == measured(record(request_, tmp_path / "new"))


def same(network):
    pass


def other_weights(network):
    with torch.no_grad():
        network.head.bias[0] += 1e-3


def other_normalisation(network):
    network.mean += 0.01


def other_code(network):
    network.head.register_forward_hook(lambda module, given, logits: 2 * logits)


@pytest.mark.parametrize("change", [same, other_weights, other_normalisation, other_code])
def test_answers_are_of_one_network(change, classifier, tmp_path, monkeypatch):
    first, second = {"right": torch.ones(3)}, {"right": torch.zeros(3)}
    own = Kept(tmp_path, "job")
    monkeypatch.setattr(kept, "WORTH", 0.0)
    with own.of({"": classifier}):
        own.answers("batch", lambda: first)
    other, again = classifier.copy(), Kept(tmp_path, "job")
    change(other)
    with again.of({"": other}):
        found = again.answers("batch", lambda: second)
    assert torch.equal(found["right"], (first if change is same else second)["right"])


@pytest.mark.parametrize("name", ["surroundings", "processes"])
def test_answers_are_of_what_else_their_bits_depend_on(name, classifier, tmp_path, monkeypatch):
    first, second = {"right": torch.ones(3)}, {"right": torch.zeros(3)}
    own, again = Kept(tmp_path, "job"), Kept(tmp_path, "job")
    monkeypatch.setattr(kept, "WORTH", 0.0)
    with own.of({"": classifier}):
        own.answers("batch", lambda: first)
    if name == "surroundings":
        monkeypatch.setattr(kept, "surroundings", lambda device: {"threads": "99"})
    else:
        monkeypatch.setattr(kept.distributed, "count", lambda: 2)
        monkeypatch.setattr(kept.distributed, "from_writer", lambda content: content)
    with again.of({"": classifier}):
        assert again.answers("batch", lambda: second) == second


def test_a_full_disk_stops_nothing(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "write_sealed", lambda *given: (_ for _ in ()).throw(OSError("full")))
    monkeypatch.setattr(kept, "EVERY", 0.0)
    own, one = Kept(tmp_path, "job"), {"right": torch.ones(3)}
    with own.of({"": classifier}):
        assert own.answers("batch", lambda: one) == one
    assert not own.there()


@pytest.mark.parametrize(("seconds", "files"), [(4.9, 0), (5.1, 1)])
def test_what_took_seconds_is_written_at_the_end(seconds, files, classifier, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(kept.time, "monotonic", lambda: now[0])
    own = Kept(tmp_path, "job")
    with own.of({"": classifier}):
        own.answers("batch", lambda: {"right": torch.ones(3)})
        now[0] += seconds
    assert len(own.there()) == files
