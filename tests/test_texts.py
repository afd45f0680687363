"""Text files and names as people write them: byte order marks, UTF-16, accents in two forms, ~."""

import io
import shlex
import sys
import unicodedata
from pathlib import Path

import pytest

from conftest import CLASSES
from stakes import ForgetSet
from stakes.anchors.descriptions import read_classes
from stakes.cli import commands as cli
from stakes.data.datasets import load_data
from test_odd_inputs import image, place, unlearn  # noqa: F401  (a fixture)

pytestmark = pytest.mark.usefixtures("undrawn", "unattacked")

ACCENTED = "Gen\N{LATIN SMALL LETTER E WITH GRAVE}ve"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_class_files_and_tables_in_the_encodings_of_other_programs(encoding, tmp_path):
    (tmp_path / "classes.txt").write_text(f"red\n{ACCENTED}\n", encoding=encoding)
    assert list(read_classes(tmp_path / "classes.txt")) == ["red", ACCENTED]
    image(tmp_path / "a.png")
    (tmp_path / "f.csv").write_text(f"path,label\na.png,{ACCENTED}\n", encoding=encoding)
    forget = ForgetSet.from_csv(tmp_path / "f.csv", ["red", ACCENTED])
    assert forget.labels.tolist() == [1]


def test_an_accent_is_the_same_in_both_of_its_forms(tmp_path):
    """As macOS writes folders, and Linux lists of classes, or the other way round."""
    forms = [unicodedata.normalize(form, ACCENTED) for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    for folder, listed in (forms, forms[::-1]):
        image(tmp_path / folder / "train" / folder / "1.png")
        image(tmp_path / folder / "train" / "red" / "1.png", value=9)
        names = ["red", listed]
        forget = ForgetSet.from_folder(tmp_path / folder / "train", names)
        assert sorted(forget.labels.tolist()) == [0, 1]
        assert load_data(tmp_path / folder, class_names=names).train.labels.tolist() == [1, 0]


def test_a_home_in_every_path(place, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("net.th", "data"):
        (tmp_path / name).symlink_to(place / name)
    (tmp_path / "c.txt").write_text("\n".join(sorted(CLASSES)))
    (tmp_path / "m.py").write_text("def f(c, g): return 1.0")
    words = unlearn(
        weights="~/net.th", data="~/data", classes="~/c.txt", metric="~/m.py:f", out="~/OUT",
        method="neggrad", max_steps="1", eval_samples="2",
    )  # fmt: skip
    assert cli.main([*shlex.split(words), "--force"]) in (0, 3), capsys.readouterr().err
    assert (tmp_path / "OUT" / "row.json").is_file()
    assert cli.main(["report", "~/OUT", "--out", "~/page.html"]) == 0
    assert (tmp_path / "page.html").is_file()
    assert not [path for path in tmp_path.rglob("*") if path.name == "~"]


def test_a_terminal_of_ascii_ends_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", shown)
    assert cli.main(["report", f"{ACCENTED} 猫", "--out", "x.html"]) == 2
    shown.flush()
    assert b"Gen\\xe8ve \\u732b is not a run folder" in shown.buffer.getvalue()
    assert not Path("x.html").exists()
