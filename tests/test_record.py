"""Run folders: what they hold, and that they appear whole or not at all."""

import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stakes import ForgetSet, InputError, NegGrad, StructGuard, evaluate
from stakes.evaluation.selection import select
from stakes.methods import method_class, method_name
from stakes.runs.environment import environment, peak_memory_mb
from stakes.runs.folder import check_out, new_folder
from stakes.runs.record import Request, record

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn", "unattacked")]

OLDER = '{"unlearned_digest": "of a version without a manifest"}'


def held(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_from_python(classifier, forget, anchors, train_images, test_images, tmp_path):
    request = Request(
        StructGuard(lr=3e-3, probe_batch=16, max_steps=3), classifier, forget, anchors,
        retain=train_images, test=test_images, seed=7, eval_samples=20, asked={"dataset": "blobs"},
    )  # fmt: skip
    phases = []
    row = record(request, tmp_path / "a" / "b", lambda phase, *rest: phases.append(phase))
    assert row == json.loads((tmp_path / "a" / "b" / "row.json").read_text())
    assert row["dataset"] == "blobs"
    assert (row["seed"], row["eval_samples"], row["n_test"]) == (7, 20, 20)
    assert all(not isinstance(value, dict | list) for value in row.values())
    first = phases.index("unlearning")
    assert {"reading test", "reading retain"} == set(phases[:first])  # before any long work
    assert row["seconds_total"] >= row["seconds_unlearn"] + row["seconds_evaluate"]
    stakes = load_file(tmp_path / "a" / "b" / "stakes.safetensors")
    assert stakes["stakes"].shape == (4, classifier.feature_width)
    assert torch.equal(stakes["anchors"], anchors.vectors)


def test_the_images_that_are_scored_are_those_of_the_seed(
    classifier, forget, anchors, train_images, test_images, tmp_path
):
    sets = {"test": test_images, "retain": train_images, "eval_samples": 9, "seed": 7}
    method = NegGrad(lr=0.05, max_steps=2)
    row = record(Request(method, classifier, forget, anchors, **sets), tmp_path / "out")
    scored, _ = evaluate(classifier, classifier, forget, **sets)
    for key in ("test_digest", "retain_digest", "acc_test_before", "mia_forget_before"):
        assert row[key] == scored[key]
    last = (tmp_path / "out" / "history.jsonl").read_text().splitlines()[-1]
    assert row["drift_probes"] == json.loads(last)["drift"] > 0


def test_forget_images_that_are_found_in_the_data_are_told_before_the_work(
    classifier, forget, anchors, train_images, tmp_path
):
    notes = []
    given = ForgetSet(forget.images, forget.labels, forget.names)  # from nowhere in particular
    request = Request(NegGrad(max_steps=1), classifier, given, anchors, retain=train_images)
    record(request, tmp_path / "out", lambda *note: notes.append(note))
    said = "6 of 6 forget images found in --data (6 exact, 0 near-duplicates)"
    [place] = [i for i, note in enumerate(notes) if note[3:] == (said,)]
    assert "unlearning" not in {phase for phase, *_ in notes[:place]}


def test_the_time_to_choose_what_is_scored_is_time_to_score(
    classifier, forget, anchors, tmp_path, monkeypatch
):
    def slowly(*arguments, **options):
        time.sleep(0.3)
        return select(*arguments, **options)

    monkeypatch.setattr("stakes.runs.record.select", slowly)
    monkeypatch.setattr("stakes.runs.record.evaluate", lambda *_, **__: ({}, {"forget": []}))
    row = record(Request(NegGrad(max_steps=1), classifier, forget, anchors), tmp_path / "out")
    assert 0.3 <= row["seconds_evaluate"] < row["seconds_total"]


def test_nan_becomes_null(classifier, forget, anchors, tmp_path, monkeypatch):
    def broken(*arguments, **options):
        row, evidence = evaluate(*arguments, **options)
        evidence["forget"][0]["after_confidence"] = math.nan
        return row | {"acc_forget": math.nan}, evidence

    monkeypatch.setattr("stakes.runs.record.evaluate", broken)
    request = Request(NegGrad(max_steps=2), classifier, forget, anchors)
    row = record(request, tmp_path / "out")
    for name in ("row.json", "evidence.json", "history.jsonl"):
        text = (tmp_path / "out" / name).read_text()
        assert "NaN" not in text
        assert "Infinity" not in text
    assert row["acc_forget"] is None
    assert not any(isinstance(v, float) and not math.isfinite(v) for v in row.values())


def test_a_network_that_is_not_finite_is_never_a_result(classifier, forget, anchors, tmp_path):
    with torch.no_grad():
        classifier.head.weight.mul_(1e37)  # so that the first step takes the weights beyond floats
    request = Request(NegGrad(lr=100.0, max_steps=5), classifier, forget, anchors)
    with pytest.raises(InputError, match=r"run failed \(diverged.*not finite"):
        record(request, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_network_does_not_recognise_stops_the_run(classifier, forget, anchors, tmp_path):
    steps = []
    wrong = ForgetSet(forget.images, (forget.labels + 1) % 4, forget.names)
    request = Request(NegGrad(max_steps=1), classifier, wrong, anchors)
    with pytest.raises(InputError, match="recognises only 0 of the 6 images"):
        record(request, tmp_path / "out", lambda *note: steps.append(note))
    assert not any(phase == "unlearning" for phase, *_ in steps)
    assert list(tmp_path.iterdir()) == []
    row = record(replace(request, force=True), tmp_path / "out")
    assert row["n_never_recognised"] == 6
    half = torch.cat([forget.labels[:3], (forget.labels[3:] + 1) % 4])
    labels = ForgetSet(forget.images, half, forget.names)
    assert record(replace(request, forget=labels), tmp_path / "half")["n_never_recognised"] == 3


def test_a_failure_while_writing_leaves_what_was_there(
    classifier, forget, anchors, tmp_path, monkeypatch
):
    request = Request(NegGrad(max_steps=1), classifier, forget, anchors)
    record(request, tmp_path / "out")
    before = held(tmp_path)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stakes.report.page.write_report", full)
    with pytest.raises(OSError, match="No space left"):
        record(request, tmp_path / "out")
    assert held(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "row.json").write_text(OLDER)
    rename = Path.rename

    def fail(self, target):
        if self.parent.name == "new":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"), new_folder(out) as folder:
        (folder / "row.json").write_text("new")
    assert (out / "row.json").read_text() == OLDER
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "row.json").write_text(OLDER)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with new_folder(tmp_path / "link") as folder:
        (folder / "row.json").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "row.json").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


def test_output_folders_that_are_fine(tmp_path):
    check_out(tmp_path / "new" / "deep", False)
    (tmp_path / "empty").mkdir()
    check_out(tmp_path / "empty", False)
    (tmp_path / "run").mkdir()
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "run" / name).touch()
    (tmp_path / "run" / "row.json").write_text(OLDER)
    check_out(tmp_path / "run", True)
    assert not (tmp_path / "new").exists()


def test_output_folders_that_are_refused(tmp_path, monkeypatch):
    run_folder, file = tmp_path / "run", tmp_path / "file"
    run_folder.mkdir()
    file.touch()
    (run_folder / "model.safetensors").touch()
    with pytest.raises(InputError, match=r"run is not empty: give another folder$"):
        check_out(run_folder, False)
    with pytest.raises(InputError, match=r"holds model\.safetensors, which is not part of an earl"):
        check_out(run_folder, True)
    (run_folder / "row.json").touch()
    (run_folder / "zebra").mkdir()
    with pytest.raises(InputError, match="zebra"):
        check_out(run_folder, True)
    with pytest.raises(InputError, match="file"):
        check_out(file, True)
    with pytest.raises(InputError, match=r"nothing can be written in .*file"):
        check_out(file / "out", False)

    def forbidden(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", forbidden)
    with pytest.raises(InputError, match=rf"nothing can be written in {tmp_path} \(Permission den"):
        check_out(tmp_path / "out", False)


def test_what_a_number_needs_to_be_repeated():
    facts = environment(torch.device("cpu"))
    assert facts["version_stakes"] == "0.1.0"
    assert facts["cores"] == os.cpu_count()
    assert facts["device"] == "cpu"
    assert facts["accelerator"] is None
    assert facts["cpu"]
    assert facts["date"].endswith("+00:00")


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_mb(torch.device("cpu"))
    block = torch.ones(int(before + 200) * 2**18)
    assert peak_memory_mb(torch.device("cpu")) > before + 100
    del block


def test_method_names():
    assert method_name(StructGuard()) == ("structguard", None)
    assert method_name(method_class("structguard", "paper")()) == ("structguard", "paper")
    assert method_name(NegGrad()) == ("neggrad", None)
