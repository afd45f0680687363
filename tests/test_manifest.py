"""What a run folder lists, what may be replaced, and what a killed run left: by files alone."""

import json
import os
import shutil
from pathlib import Path

import pytest

from checks import write_result
from stakes.errors import InputError
from stakes.manifest import MANIFEST, check_manifest, write_manifest
from stakes.runs import out_folder
from stakes.runs.folder import check_out, checkpoint_beside
from stakes.runs.out_folder import OutFolder

OLDER = '{"unlearned_digest": "of a version without a manifest"}'


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A result."""
    write_result(tmp_path / "OUT")
    return tmp_path / "OUT"


def listed(folder: Path) -> dict:
    return json.loads((folder / MANIFEST).read_text())


# The manifest


def test_a_changed_file_is_noticed_at_any_depth(out):
    (out / "a" / "b").mkdir(parents=True)
    (out / "a" / "b" / "c.json").write_text("{}")
    write_manifest(out)
    assert check_manifest(out)
    (out / "a" / "b" / "c.json").write_text("[]")
    with pytest.raises(InputError, match=r"OUT was changed after the run: a/b/c\.json not as in"):
        check_manifest(out)


@pytest.mark.parametrize("name", ["../row.json", "a/../../row.json", "/etc/hostname"])
def test_a_manifest_that_leads_out_of_its_folder_is_damaged(name, out):
    manifest = listed(out)
    manifest["files"][name] = "0" * 64
    (out / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        check_manifest(out)


@pytest.mark.parametrize("change", [{"files": {}}, {"format": 2}, {"more": 1}, {"files": {"a": 1}}])
def test_a_manifest_of_another_kind_is_damaged(change, out):
    (out / MANIFEST).write_text(json.dumps(listed(out) | change))
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        check_manifest(out)


def test_only_what_may_be_absent_may(out):
    (out / "evidence.json").unlink()
    assert check_manifest(out, absent=["evidence.json"])
    (out / "row.json").unlink()
    with pytest.raises(InputError, match=r"changed after the run: row\.json \(missing\)"):
        check_manifest(out, absent=["evidence.json"])


# What is replaced


def test_a_result_is_replaced_and_what_lies_within_it_beside_its_files_is_not(out):
    (out / "a").mkdir()
    (out / "a" / "of-the-run.json").write_text("{}")
    write_manifest(out)
    check_out(out, True)
    (out / "a" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"OUT holds a/mine\.txt, which is not part"):
        check_out(out, True)
    shutil.rmtree(out / "a")
    (out / "a").write_text("mine")  # a file where the run had a folder
    with pytest.raises(InputError, match="OUT holds a, which is not part"):
        check_out(out, True)


def test_a_link_in_the_place_of_a_file_is_no_part_of_a_result(out):
    (out / "row.json").rename(out.parent / "elsewhere.json")
    (out / "row.json").symlink_to("../elsewhere.json")
    with pytest.raises(InputError, match=r"OUT holds row\.json, which is not part"):
        check_out(out, True)


def test_a_result_with_a_damaged_manifest_is_known_by_its_names(out):
    (out / MANIFEST).write_text("{")
    check_out(out, True)
    (out / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"OUT holds thesis\.tex, which is not part"):
        check_out(out, True)


def older(folder: Path) -> Path:
    """The results of a demonstration by a version that wrote no manifests."""
    (folder / "neggrad").mkdir(parents=True)
    (folder / "report.html").touch()
    (folder / "neggrad" / "row.json").write_text(OLDER)
    return folder


def test_results_of_an_older_version_are_replaced_and_nothing_else(tmp_path):
    check_out(older(tmp_path / "fine"), True)
    for name, make, said in (
        ("file", lambda run: (run / "thesis.tex").touch(), r"neggrad/thesis\.tex"),
        ("folder", lambda run: (run / "mine").mkdir(), "neggrad"),
        ("empty", lambda run: (run / "row.json").unlink(), "neggrad"),
        ("other", lambda run: (run / "row.json").write_text('{"loss": 1}'), r"neggrad/row\.json"),
        ("link", lambda run: (run / "model.json").symlink_to("row.json"), r"neggrad/model\.json"),
        ("report", lambda run: (run.parent / "report.html").unlink(), "neggrad"),
    ):
        make(older(tmp_path / name) / "neggrad")
        with pytest.raises(InputError, match=f"{name} holds {said}, which is not part"):
            check_out(tmp_path / name, True)


def test_what_a_disk_puts_at_its_root_is_passed_over_there_alone(tmp_path, monkeypatch):
    (tmp_path / "OUT" / "lost+found").mkdir(parents=True)
    with pytest.raises(InputError, match="not empty"):
        check_out(tmp_path / "OUT", False)
    monkeypatch.setattr(out_folder, "_stays", lambda folder: True)  # a mount point
    check_out(tmp_path / "OUT", False)


def test_a_folder_above_the_working_directory_stays_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "OUT" / "deep").mkdir(parents=True)
    assert OutFolder.of(tmp_path / "OUT").work == tmp_path / ".OUT.unfinished"
    monkeypatch.chdir(tmp_path / "OUT" / "deep")
    assert OutFolder.of(tmp_path / "OUT").work == tmp_path / "OUT" / ".unfinished"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root gives files away")
def test_a_link_of_another_user_leads_nowhere(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "OUT").symlink_to("theirs")
    check_out(tmp_path / "OUT", True)
    os.lchown(tmp_path / "OUT", 12345, 12345)
    with pytest.raises(InputError, match="OUT is a link that belongs to another user"):
        check_out(tmp_path / "OUT", True)


# What a killed run left


def test_an_earlier_result_beside_an_incomplete_one_is_left_to_the_user(out):
    work = checkpoint_beside(out)
    work.mkdir()
    out.rename(work / "old")
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"OUT is not a complete result, and the earlier one is"):
        check_out(out, True)
    assert (out / "mine.txt").read_text() == "mine"
    assert check_manifest(work / "old")


@pytest.mark.parametrize("whole", [False, True])
def test_only_the_states_of_the_finished_job_go(whole, out):
    row = json.loads((out / "row.json").read_text())
    (out / "row.json").write_text(json.dumps(row | {"job_digest": "a" * 64}))
    if whole:
        write_manifest(out)
    work = checkpoint_beside(out)
    work.mkdir()
    names = [f"{kind}-{job * 16}" for kind in ("scored", "state") for job in "ab"]
    for name in names:
        (work / name).touch()
    check_out(out, True)
    left = sorted(path.name for path in work.glob("s*"))
    assert left == (["scored-" + "b" * 16, "state-" + "b" * 16] if whole else names)


@pytest.mark.parametrize("whole", [False, True])
def test_a_copy_comes_back_where_the_new_files_were_not_all_there(whole, out, tmp_path):
    earlier = (out / MANIFEST).read_bytes()
    work = checkpoint_beside(out)
    work.mkdir()
    out.rename(work / "copy")
    write_result(out)
    (out / "evidence.json").write_text("{}")
    (out / "new.json").write_text("{}")
    write_manifest(out)
    new = (out / MANIFEST).read_bytes()
    (work / "new" / "OUT").mkdir(parents=True)
    for path in out.iterdir():
        (work / "new" / "OUT" / path.name).write_bytes(path.read_bytes())
    if not whole:
        (out / "model.safetensors").unlink()
    (out / ".evidence.json.unfinished").touch()
    check_out(out, True)
    assert check_manifest(out)
    assert (out / MANIFEST).read_bytes() == (new if whole else earlier)
    assert (out / "new.json").exists() is whole
    assert not (out / ".evidence.json.unfinished").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["OUT"]
