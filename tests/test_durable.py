"""Kills, power cuts, other people's files, flipped bits: OUT is whole, or the run resumes."""

import json
import os
import random
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from stakes import METHODS, InputError
from stakes.cli import commands as cli
from stakes.cli.delivered import check_delivered
from stakes.files import check_file, locked, regular, replacing, write_text
from stakes.manifest import check_manifest
from stakes.report.run_reader import read_runs
from stakes.runs import out_folder, placing
from stakes.runs.folder import check_apart, check_out, checkpoint_beside, claim, new_folder
from stakes.runs.record import Request, record
from stakes.runs.runner import unfinished
from stakes.training import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn", "unattacked")]

MOMENTS = 24  # of each kind of run; all of them pass, in minutes
METHOD = METHODS["neggrad"](lr=1e-5, forget_batch=4, max_steps=3)


class Said(list):
    def __call__(self, phase, done, total, note=""):
        if phase == "interrupted run":
            self.append(note)


@pytest.fixture
def request_(classifier, forget, anchors, monkeypatch):
    """A run of three steps that saves its state after each, with nothing scored and no page."""
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    scored = {"acc_forget": 50.0}, {"forget": [{"name": "one", "label": "red"}], "classes": []}
    monkeypatch.setattr("stakes.runs.record.evaluate", lambda *args, **options: scored)

    def page(folders, out, **options):
        read_runs(folders)
        write_text(out, "page")

    monkeypatch.setattr("stakes.report.page.write_report", page)
    return Request(METHOD, classifier, forget, anchors)


class Disk:
    """Notes what is on the disk: the content of files, and names in folders, as last synced.

    ``images`` are what a power cut would leave before and after every operation on the folder:
    ``eager``, where names reach the disk at once and contents when synced, and ``lazy``, where
    names do so only when their folder is synced.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.images, self.moments = root, {}, 0
        self._content, self._names, self._held = {}, {}, {}
        for path in (root, *root.rglob("*")):
            self._sync(os.open(path, os.O_RDONLY))

    def _sync(self, number: int) -> None:
        found = os.fstat(number)
        if stat.S_ISDIR(found.st_mode):
            self._names[found.st_ino] = {e.name: e.inode() for e in os.scandir(number)}
        else:
            self._content[found.st_ino] = os.pread(number, found.st_size, 0)

    def moment(self) -> None:
        self.moments += 1
        eager = {}
        for path in sorted(self.root.rglob("*")):
            number = path.lstat().st_ino
            if number not in self._held:  # kept open, so that no other file gets its number
                self._held[number] = os.open(path, os.O_RDONLY)
            is_folder = path.is_dir()
            content = None if is_folder else self._content.get(number, b"")
            eager[str(path.relative_to(self.root))] = content
        lazy: dict[str, bytes | None] = {}
        self._walk(self.root.stat().st_ino, "", lazy)
        for image in (eager, lazy):
            self.images.setdefault(repr(sorted(image.items())), image)

    def _walk(self, number: int, prefix: str, image: dict[str, bytes | None]) -> None:
        for name, inner in self._names.get(number, {}).items():
            held = self._held.get(inner)
            is_folder = held is not None and stat.S_ISDIR(os.fstat(held).st_mode)
            image[prefix + name] = None if is_folder else self._content.get(inner, b"")
            if is_folder:
                self._walk(inner, f"{prefix}{name}/", image)

    @contextmanager
    def watched(self, monkeypatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            for name in ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir"):
                patch.setattr(os, name, self._noting(getattr(os, name), name == "fsync"))
            yield
        for number in self._held.values():
            os.close(number)

    def _noting(self, function, syncs: bool):
        def call(*args, **options):
            self.moment()
            result = function(*args, **options)
            if syncs:
                self._sync(args[0])
            self.moment()
            return result

        return call


def laid_out(image: dict[str, bytes | None], root: Path) -> Path:
    root.mkdir(mode=0o700)
    for name, content in sorted(image.items()):
        if content is None:
            (root / name).mkdir(mode=0o700)
        else:
            (root / name).write_bytes(content)
            (root / name).chmod(0o600)
    return root


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_a_power_cut_at_any_moment_leaves_it_whole_or_the_run_resumes(
    earlier, inside, request_, tmp_path, monkeypatch
):
    if inside:  # as where OUT is a mount point
        monkeypatch.setattr(out_folder, "_stays", lambda folder: True)
    root = tmp_path / "disk"
    (root / "OUT").mkdir(parents=True)
    before = None
    if earlier:
        other = METHODS["neggrad"](lr=2e-5, forget_batch=4, max_steps=3)
        record(Request(other, request_.classifier, request_.forget, request_.anchors), root / "OUT")
        before = (root / "OUT" / "manifest.json").read_bytes()
    monkeypatch.setattr(checkpoint, "EVERY", 1e-9)
    disk = Disk(root)
    with disk.watched(monkeypatch):
        row = record(request_, root / "OUT")
    after = row["unlearned_digest"]
    assert disk.moments > 60
    assert len(disk.images) >= 20
    begun_anew, images = 0, list(disk.images.values())
    for number, image in enumerate(random.Random(0).sample(images, min(MOMENTS, len(images)))):
        out = laid_out(image, tmp_path / str(number)) / "OUT"
        check_out(out, True)
        left = json.loads((out / "row.json").read_bytes()) if (out / "row.json").exists() else {}
        if left:
            assert check_manifest(out)
        if left.get("unlearned_digest") != after:
            assert (out / "manifest.json").read_bytes() == before if earlier else not left
            said = Said()
            assert record(request_, out, said)["unlearned_digest"] == after
            begun_anew += not any("going on after" in note for note in said)
        assert check_manifest(out)
        assert entries(out) == entries(root / "OUT")
        assert entries(out.parent) == {"OUT"}
    assert begun_anew <= 12  # cuts before the first state was on the disk


def test_what_is_synced_matters_to_these_tests(request_, tmp_path, monkeypatch):
    """Without a sync of files, the power cut's images show what a real one showed: empty files."""
    root = tmp_path / "disk"
    root.mkdir()
    disk = Disk(root)
    monkeypatch.setattr("stakes.files.sync", lambda path: None)
    with disk.watched(monkeypatch):
        record(request_, root / "OUT")
    assert any(image.get("OUT/row.json") == b"" for image in disk.images.values())


def child(action) -> int:
    """Do something in a process of its own; gives its number."""
    number = os.fork()
    if number == 0:
        try:
            action()
        finally:
            os._exit(0)
    return number


def test_a_short_storm_of_kills_leaves_nothing(request_, tmp_path):
    draw = random.Random(0)
    start = time.monotonic()
    whole = record(request_, tmp_path / "whole")
    length = time.monotonic() - start
    out, killed = tmp_path / "OUT", 0
    for _ in range(12):
        number = child(lambda: record(request_, out))
        time.sleep(draw.uniform(0, 1.2 * length))
        os.kill(number, signal.SIGKILL)
        killed += os.waitpid(number, 0)[1] == signal.SIGKILL
    assert killed
    row = record(request_, out)
    assert row["unlearned_digest"] == whole["unlearned_digest"]
    assert check_manifest(out)
    assert entries(tmp_path) == {"OUT", "whole"}


def test_a_kill_between_the_renames_is_put_right_by_the_same_command(request_, tmp_path):
    out = tmp_path / "OUT"
    record(request_, out)
    before = (out / "manifest.json").read_bytes()
    work = checkpoint_beside(out)
    work.mkdir()
    out.rename(work / "old")
    (work / "new" / "OUT").mkdir(parents=True)
    check_out(out, True)  # before `--model OUT` is read
    assert (out / "manifest.json").read_bytes() == before
    assert entries(tmp_path) == {"OUT"}


def test_the_state_of_a_finished_run_goes_with_the_next_command(request_, tmp_path, monkeypatch):
    out = tmp_path / "OUT"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)  # killed right before
        record(request_, out)
    assert entries(checkpoint_beside(out)) >= {"lock"}
    with pytest.raises(InputError, match="not empty"):
        check_out(out, False)
    assert entries(tmp_path) == {"OUT"}


def test_two_runs_with_one_folder(tmp_path):
    out = tmp_path / "OUT"
    with (
        claim(out),
        pytest.raises(InputError, match="OUT: another run"),
        claim(out),
    ):
        pass
    with claim(out), pytest.raises(InputError, match="another run"):
        check_out(out, False)
    check_out(out, False)
    assert entries(tmp_path) == set()


def test_what_is_put_there_during_the_run_stays(request_, tmp_path, monkeypatch):
    out = tmp_path / "OUT"
    write = placing.write_manifest

    def meanwhile(folder):
        out.mkdir()
        (out / "row.json").write_text("mine")
        write(folder)

    with monkeypatch.context() as patch:
        patch.setattr(placing, "write_manifest", meanwhile)
        with pytest.raises(InputError, match=r"row\.json"):
            record(request_, out)
    assert (out / "row.json").read_text() == "mine"
    (out / "row.json").unlink()
    said = Said()
    record(request_, out, said)
    assert said == ["going on after step 3, the last"]


def test_folders_named_like_run_files_are_kept(request_, tmp_path):
    out = tmp_path / "OUT"
    record(request_, out)
    (out / "report.html").unlink()
    (out / "report.html").mkdir()
    (out / "report.html" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"OUT holds report\.html"):
        check_out(out, True)
    (tmp_path / "mine").mkdir()
    for name in ("row.json", "report.html"):
        (tmp_path / "mine" / name).write_text("{}")
    with pytest.raises(InputError, match=r"mine.*report\.html"):
        check_out(tmp_path / "mine", True)


def test_a_hidden_folder_that_somebody_else_planted(tmp_path):
    out = tmp_path / "OUT"
    (tmp_path / "elsewhere").mkdir()
    checkpoint_beside(out).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="folder of your own"):
        check_out(out, False)
    assert entries(tmp_path / "elsewhere") == set()


@pytest.mark.parametrize("name", ["n" * 250, "\udcff", "ä" * 124, "a\nb"])
def test_names_of_all_kinds(name, request_, tmp_path):
    record(request_, tmp_path / name)
    assert entries(tmp_path) == {name}
    write_text(tmp_path / "x" / name, name)
    assert entries(tmp_path / "x") == {name}


def test_places_that_cannot_be_are_refused_first(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for out in ("/", "/proc/x", tmp_path / ("n" * 300), tmp_path / "loop", "/dev/null"):
        with pytest.raises(InputError, match=r"--out .*give a"):
            check_out(out, True)


def test_within_the_images(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"data.*images"):
        check_apart(tmp_path / "data" / "OUT", "random:3", str(tmp_path / "data"), None)
    check_apart(tmp_path / "OUT", "random:3", str(tmp_path / "data"), None)


def test_a_folder_that_we_are_in_gets_its_files(request_, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match=r"\. is not empty"):
        check_out(".", False)
    (tmp_path / "mine").rmdir()
    identity = tmp_path.stat().st_ino
    record(request_, ".")
    assert check_manifest(tmp_path)
    assert tmp_path.stat().st_ino == identity
    with pytest.raises(InputError, match=r"\. is not empty"):
        check_out(".", False)
    record(request_, ".")
    assert ".unfinished" not in entries(tmp_path)


@pytest.mark.usefixtures("no_umask")
def test_run_folders_are_for_their_owner_alone(request_, tmp_path):
    record(request_, tmp_path / "OUT")
    assert stat.S_IMODE((tmp_path / "OUT").stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "OUT").iterdir()}
    assert modes == dict.fromkeys(modes, 0o600)
    assert len(modes) == 9


def test_a_file_is_written_through_our_link_and_over_no_device(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null"), tmp_path):
        with pytest.raises(InputError, match="name of a file"):
            write_text(path, "x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(InputError, match="add --overwrite"):
        check_file(tmp_path / "link", False)
    if os.geteuid() == 0:
        os.lchown(tmp_path / "link", 12345, 12345)
        os.setresuid(-1, 54321, -1)
        try:
            with pytest.raises(
                InputError, match=r"link that belongs to another user|cannot be written"
            ):
                regular(tmp_path / "link")
        finally:
            os.setresuid(-1, 0, -1)


def test_what_a_killed_writer_left_is_written_over(tmp_path):
    def killed():
        with replacing(tmp_path / "row.json") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(child(killed), 0)
    assert entries(tmp_path) == {".row.json.unfinished"}
    write_text(tmp_path / "row.json", "whole")
    assert entries(tmp_path) == {"row.json"}
    with locked(tmp_path / "lock"), pytest.raises(BlockingIOError), locked(tmp_path / "lock"):
        pass


def test_flipped_bits_in_any_file_are_noticed(request_, tmp_path, capsys):
    out, draw = tmp_path / "runs" / "cell", random.Random(0)
    record(request_, out)
    cell = SimpleNamespace(name="cell", fingerprint=lambda: "same")
    write_text(tmp_path / "cells" / "cell.json", '{"state": "finished", "fingerprint": "same"}')
    assert unfinished(cell, tmp_path) is None
    words = ["evaluate", "--model", "stakes:digits_cnn", "--forget", "x", "--unlearned", str(out)]
    for path in sorted(out.iterdir()):
        whole = path.read_bytes()
        for _ in range(5):
            place, bit = draw.randrange(len(whole)), draw.randrange(8)
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            assert unfinished(cell, tmp_path), (path.name, place, bit)
            for command in (["report", str(out), "--out", str(tmp_path / "page.html")], words):
                assert cli.main(command) == 2, (path.name, place, bit)
                said = capsys.readouterr().err
                assert "was changed after the run" in said or "manifest.json is damaged" in said
        path.write_bytes(whole)
    assert unfinished(cell, tmp_path) is None
    edited = (out / "row.json").read_text().replace('"acc_forget": 50.0', '"acc_forget": 0.0')
    (out / "row.json").write_text(edited)
    assert cli.main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 2


def test_a_missing_file_is_noticed_unless_only_the_network_was_delivered(request_, tmp_path):
    out = tmp_path / "OUT"
    record(request_, out)
    (out / "evidence.json").unlink()
    with pytest.raises(InputError, match=r"evidence\.json \(missing\)"):
        check_manifest(out)
    check_delivered(out)
    (out / "model.json").unlink()
    with pytest.raises(InputError, match=r"model\.json \(missing\)"):
        check_delivered(out)


def test_a_folder_without_a_manifest_is_read_with_a_note(request_, tmp_path, capsys):
    out = tmp_path / "OUT"
    record(request_, out)
    (out / "manifest.json").unlink()
    assert cli.main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0
    assert "OUT has no manifest, so changes to it cannot be detected" in capsys.readouterr().err
    assert cli.main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 2
    assert "page.html exists: give another file, or add --overwrite" in capsys.readouterr().err


def test_a_page_written_anew_into_its_run_folder_is_noted(request_, tmp_path):
    out = tmp_path / "OUT"
    record(request_, out)
    assert cli.main(["report", str(out), "--out", str(out / "report.html"), "--overwrite"]) == 0
    assert check_manifest(out)


def test_a_page_that_cannot_be_made_does_not_cost_the_run(request_, tmp_path, monkeypatch):
    def broken(folders, out):
        raise ZeroDivisionError("in a chart")

    monkeypatch.setattr("stakes.report.page.write_report", broken)
    record(request_, tmp_path / "OUT")
    assert check_manifest(tmp_path / "OUT")
    assert not (tmp_path / "OUT" / "report.html").exists()


def test_new_folder_makes_nothing_where_the_block_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "OUT"):
        1 / 0  # noqa: B018
    assert entries(tmp_path) == set()


# faults while a run steps


def test_a_disk_that_is_full_at_every_checkpoint_costs_no_result(request_, tmp_path, monkeypatch):
    wanted = record(request_, tmp_path / "whole")["unlearned_digest"]
    tried = []

    def full(path, content):
        tried.append(path)
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "write_sealed", full)
    assert record(request_, tmp_path / "OUT")["unlearned_digest"] == wanted
    assert tried
    assert check_manifest(tmp_path / "OUT")
    assert entries(tmp_path) == {"whole", "OUT"}


def test_a_checkpoint_folder_that_is_removed_during_the_run_costs_no_result(request_, tmp_path):
    wanted = record(request_, tmp_path / "whole")["unlearned_digest"]
    out, removed = tmp_path / "OUT", []

    def remove(phase, done, total, note=""):
        if phase == "unlearning" and done == 2:
            shutil.rmtree(checkpoint_beside(out))
            removed.append(done)

    assert record(request_, out, remove)["unlearned_digest"] == wanted
    assert removed
    assert check_manifest(out)
    assert entries(tmp_path) == {"whole", "OUT"}


def test_a_disk_that_is_full_is_told_by_the_file(tmp_path):
    with pytest.raises(OSError, match=r"row\.json") as found, replacing(tmp_path / "row.json"):
        raise OSError(28, "No space left on device")  # as a write raises it, without a name
    assert found.value.errno == 28
    assert entries(tmp_path) == set()


def test_a_disk_that_is_full_at_the_end_keeps_the_work(request_, tmp_path, monkeypatch):
    wanted = record(request_, tmp_path / "whole")["unlearned_digest"]
    out = tmp_path / "OUT"
    with monkeypatch.context() as patch:

        def full(path, text):
            raise OSError(28, "No space left on device", str(path))

        patch.setattr("stakes.runs.record.write_text", full)
        with pytest.raises(OSError, match="No space left"):
            record(request_, out)
    assert not out.exists()
    assert list(checkpoint_beside(out).glob("state-*.pt"))
    said = Said()
    assert record(request_, out, said)["unlearned_digest"] == wanted
    assert any("going on after" in note for note in said)
    assert entries(tmp_path) == {"whole", "OUT"}
