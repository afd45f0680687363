"""Files that are written whole, for their owner alone, and one writer after the other."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from stakes.errors import InputError
from stakes.files import (
    check_file,
    locked,
    read_own,
    read_sealed,
    replacing,
    write_sealed,
    write_text,
)


def test_a_second_writer_waits_for_the_first(tmp_path):
    path, done = tmp_path / "row.json", []
    second = threading.Thread(target=lambda: done.append(write_text(path, "second")))
    with replacing(path) as temporary:
        second.start()
        time.sleep(0.1)
        assert done == []
        temporary.write_text("first")
    second.join()
    assert done == [None]
    assert path.read_text() == "second"


def test_who_waited_for_a_lock_that_was_removed_holds_the_one_that_is_there(tmp_path):
    path, found = tmp_path / "lock", []

    def wait():
        with locked(path, wait=True) as number:
            found.append(path.exists() and os.path.samestat(os.fstat(number), path.stat()))

    waiting = threading.Thread(target=wait)
    with locked(path):
        waiting.start()
        time.sleep(0.1)
        path.unlink()
    waiting.join()
    assert found == [True]


def test_what_utf_8_cannot_hold_is_kept_as_an_escape(tmp_path):
    write_text(tmp_path / "a.txt", "one \udcff two")
    assert (tmp_path / "a.txt").read_bytes() == rb"one \udcff two"


def test_what_others_may_have_written_is_not_read(tmp_path):
    path = tmp_path / "state"
    write_sealed(path, b"content")
    assert read_sealed(path) == b"content"
    (tmp_path / "link").symlink_to("state")
    with pytest.raises(OSError, match="link"):
        read_own(tmp_path / "link")
    path.chmod(0o602)
    with pytest.raises(PermissionError, match="another user may have written it"):
        read_own(path)
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        with pytest.raises(PermissionError, match="another user may have written it"):
            read_own(path)
        with pytest.raises(PermissionError, match="does not belong to you"), locked(path):
            pass


def test_a_file_of_another_kind_is_never_replaced(tmp_path):
    def ours(path: Path) -> bool:
        return "ours" in json.loads(path.read_text())

    file = tmp_path / "a.json"
    check_file(file, False, ours)
    file.write_text('{"ours": 1}')
    check_file(file, True, ours)
    with pytest.raises(InputError, match=r"a\.json exists: .*--overwrite"):
        check_file(file, False, ours)
    file.write_text("{}")
    with pytest.raises(InputError, match=r"a\.json was not written by this command"):
        check_file(file, True, ours)


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    check_file(tmp_path / "new" / "deep" / "a.json", False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"--out /proc/a\.json: nothing can be written in /proc"):
        check_file("/proc/a.json", False)
