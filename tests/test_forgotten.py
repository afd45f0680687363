"""One request after another: what earlier runs made a network forget."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from command_line import command, ran, refused, row_of
from conftest import once
from stakes import Classifier, ForgetSet, load_data
from stakes.cli import commands as cli
from stakes.data.digests import pixel_digests
from stakes.data.images import ImageArray
from stakes.report.run_reader import read_run
from stakes.report.verdict import GOOD, verdict
from stakes.runs.forgotten import FILE, NOTHING, Forgotten

OWN = """
import json
from dataclasses import dataclass
from stakes.data.digests import pixel_digests
from stakes.methods import FineTune

@dataclass(frozen=True, kw_only=True)
class Watched(FineTune):
    title = "Watched"
    def unlearn(self, task):
        seen = pixel_digests(task.retain.load(range(len(task.retain))))
        open("seen.json", "w").write(json.dumps(seen))
        return super().unlearn(task)
"""


@pytest.fixture(scope="module")
def first(place, tmp_path_factory) -> Path:
    """A folder in which OUT has forgotten six images of the training data."""

    def run(folder: Path) -> None:
        shutil.copytree(place, folder, dirs_exist_ok=True)
        with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
            patch.setattr("stakes.report.page.write_report", lambda folders, out: out.touch())
            ran(command(folder))

    return once(tmp_path_factory, "first", run)


@pytest.fixture
def here(first, tmp_path, monkeypatch, no_page) -> Path:
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(name: str, old: int, new: int) -> list[str]:
    """A table of so many images that OUT forgot and so many others; gives words to forget them."""
    train = load_data("data").train
    known = Forgotten.beside(Path("OUT")).images
    pixels = pixel_digests(train.load(range(len(train))))
    there = [i for i, digest in enumerate(pixels) if digest in known][:old]
    others = [i for i, digest in enumerate(pixels) if digest not in known][:new]
    lines = [f"data/{train.name(i)},{train.labels[i]}" for i in (*there, *others)]
    Path(name).write_text("path,index\n" + "\n".join(lines) + "\n")
    return ["unlearn", "--model", "OUT", "--data", "data", "--forget", name]


def test_images_of_earlier_requests_are_no_retained_data_and_are_scored_apart(here):
    (here / "own.py").write_text(OWN)
    words = table("new.csv", 0, 2)
    ran([*words, "--method", "own.py:Watched", "--epochs", "4", "--lr", ".05", "--out", "NEXT"])
    known = Forgotten.beside(Path("OUT")).images
    seen = json.loads(Path("seen.json").read_text())
    assert len(known) == 6
    assert len(seen) == 40 - 6 - 2
    assert not known & set(seen)
    row, network = row_of("NEXT"), Classifier.load("NEXT")
    assert (row["n_earlier"], row["n_earlier_found"], row["n_retain"]) == (6, 6, 32)
    train = load_data("data").train
    images = train.load(range(len(train)))
    gone = [digest in known for digest in pixel_digests(images)]
    right = network(images).argmax(1) == train.labels
    assert row["n_earlier_recognised"] == int(right[torch.tensor(gone)].sum()) > 0
    assert row["n_earlier_recognised_before"] == 0
    found = verdict(read_run(Path("NEXT")))
    assert any("recognised again. Forget them once more" in said for said in found.warnings)


def test_a_chain_is_recorded_and_serves_the_sidecar_of_its_first_network(here):
    words = [*table("new.csv", 0, 2), "--method", "esc"]
    original = ["--model", "stakes:digits_cnn", "--input-size", "8", "--weights", "net.th"]
    kept = ["--images", "8", "--steps", "1", "--out", "kept.safetensors"]
    assert cli.main(["sidecar", *original, "--data", "data", *kept]) in (0, None)
    more = ["--method", "structguard", "--depth", "1", "--sidecar", "kept.safetensors"]
    ran([*words[:-2], *more, "--max-steps", "2", "--probe-batch", "32", "--out", "NEXT"])
    one, two = Forgotten.beside(Path("NEXT")).requests
    digests = [Classifier.load(n).digest() for n in ("OUT", "NEXT")]
    assert (one.unlearned_digest, two.unlearned_digest) == tuple(digests)
    assert two.weights_digest == digests[0]
    assert (len(one.pixels), len(two.pixels)) == (6, 2)


def test_images_asked_for_again_count_as_forgotten_and_not_as_unknown(here, capsys):
    words = [*table("both.csv", 6, 2), "--lr", "3e-3", "--probe-batch", "32", "--depth", "1"]
    ran([*words, "--patience", "4", "--settle", "0.2", "--out", "NEXT"])
    row = row_of("NEXT")
    assert (row["k"], row["n_earlier_again"], row["n_earlier_found"]) == (8, 6, 0)
    assert row["n_never_recognised"] == 0
    evidence = json.loads(Path("NEXT/evidence.json").read_text())["forget"]
    assert {record["state"] for record in evidence} <= {"forgotten", "recognised"}
    assert len(Forgotten.beside(Path("NEXT"))) == 8
    table("old.csv", 6, 0)
    capsys.readouterr()
    refused([*words[:5], "--forget", "old.csv", "--out", "X"], "earlier runs made the net", capsys)


def test_without_them_at_hand_nothing_is_said_to_be_still_forgotten(here, tmp_path):
    words = table("new.csv", 0, 2)
    train = load_data("data").train
    known = Forgotten.beside(Path("OUT")).images
    pixels = pixel_digests(train.load(range(len(train))))
    for i, digest in enumerate(pixels):
        if digest in known:
            (Path("data") / train.name(i)).unlink()
    ran([*words, "--method", "esc", "--out", "NEXT"])
    row = row_of("NEXT")
    assert (row["n_earlier"], row["n_earlier_found"]) == (6, 0)
    assert row["n_earlier_recognised"] is None
    found = verdict(read_run(Path("NEXT")))
    assert any("was not measured: none of them" in warning for warning in found.warnings)
    assert found.tone != GOOD


def test_an_auditor_scores_what_was_left_of_the_data_as_it_was_read(here, capsys):
    ran([*table("new.csv", 0, 2), "--method", "esc", "--out", "NEXT"])
    original = ["--model", "stakes:digits_cnn", "--weights", "net.th", "--data", "data"]
    capsys.readouterr()
    words = ["evaluate", *original, "--forget", "new.csv", "--unlearned", "NEXT"]
    assert cli.main(words) in (0, None)
    found, row = json.loads(capsys.readouterr().out), row_of("NEXT")
    assert (found["n_earlier"], found["n_earlier_found"], found["n_retain"]) == (6, 6, 32)
    assert found["n_earlier_recognised_before"] == 6
    assert found["n_earlier_recognised"] == row["n_earlier_recognised"]
    assert cli.main([*words[:-1], "OUT"]) in (0, None)
    assert "OUT was made to forget other images" in capsys.readouterr().err


def test_an_auditor_normalises_as_the_delivered_network_does(here, capsys):
    original = ["--model", "stakes:digits_cnn", "--weights", "net.th", "--data", "data"]
    narrow = ["--mean", ".5", ".5", ".5", "--std", "6", "6", "6", "--input-size", "8"]
    table("new.csv", 0, 2)
    words = [*original, "--forget", "new.csv"]
    ran(["unlearn", *words, *narrow, "--method", "esc", "--force", "--out", "NARROW"])
    capsys.readouterr()
    assert cli.main(["evaluate", *words, "--unlearned", "NARROW"]) in (0, None)
    found, row = json.loads(capsys.readouterr().out), row_of("NARROW")
    for key in ("acc_test_before", "acc_retain_before", "acc_forget_before", "acc_test"):
        assert found[key] == row[key]
    wide = Classifier.load("stakes:digits_cnn", weights="net.th", num_classes=4, input_size=8)
    test = load_data("data", size=8).test
    right = wide(test.load(range(len(test)))).argmax(1) == test.labels
    assert 100 * float(right.float().mean()) != row["acc_test_before"]


def test_a_record_that_is_not_the_network_s_is_refused(here, capsys):
    words = [*table("new.csv", 0, 2), "--method", "esc", "--out", "NEXT"]
    Path("OUT/manifest.json").unlink()
    record = json.loads(Path("OUT", FILE).read_text())
    for change, message in (
        ({"format": 9}, "forgotten.json is damaged"),
        ({"requests": []}, "forgotten.json is damaged"),
        ({"requests": [record["requests"][0] | {"unlearned_digest": "x"}]}, "another network than"),
    ):
        Path("OUT", FILE).write_text(json.dumps(record | change))
        refused(words, message, capsys)
    Path("OUT", FILE).unlink()
    ran(words)
    assert "n_earlier" not in row_of("NEXT")


def test_weights_of_a_run_bring_their_record_where_the_model_is_named(here):
    spec = "stakes:digits_cnn"
    assert len(Forgotten.of(spec, Path("OUT/model.safetensors"))) == 6
    assert Forgotten.of("stakes:cifar_resnet20", Path("OUT/model.safetensors")) == NOTHING
    assert Forgotten.of(spec, Path("net.th")) == NOTHING
    assert len(Forgotten.of("OUT", None)) == 6


def test_images_are_told_apart_by_their_pixels():
    images = ImageArray(torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 2, 2),
                        [0, 1, 2, 3, 0])  # fmt: skip
    asked = [ForgetSet.from_indices(images, places) for places in ([1, 3], [3, 4])]
    record = NOTHING.after(asked[0], "a", "b")
    there, others = record.apart(images, asked[1])
    assert there is not None
    assert others is not None
    assert (there.labels.tolist(), others.labels.tolist()) == ([1], [0, 2, 3, 0])
    assert record.among(asked[1]) == [True, False]
    assert record.apart(images, asked[0])[0] is None
    assert record.after(asked[1], "b", "c").networks == ("a", "b")


def test_images_are_told_apart_in_a_set_of_several_batches():
    number = torch.arange(600)
    pixels = torch.stack([number % 256, number // 256, number * 0], 1).to(torch.uint8)
    images = ImageArray(pixels[:, :, None, None].expand(600, 3, 2, 2), number)
    record = NOTHING.after(ForgetSet.from_indices(images, [3, 300, 599]), "a", "b")
    there, others = record.apart(images, ForgetSet.from_indices(images, [4]))
    assert there is not None
    assert others is not None
    assert there.labels.tolist() == [3, 300, 599]
    assert others.labels.tolist() == [i for i in range(600) if i not in {3, 300, 599}]
