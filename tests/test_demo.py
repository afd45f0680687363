"""The demonstration, shortened: every method has its run, and one page compares them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stakes import InputError, demo, load_data
from stakes.cli import commands as cli

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn", "unattacked")]
LITTLE = {
    "structguard": {"probe_batch": 16},
    "l2ul": {"probes_per_image": 1, "pgd_iterations": 5},
    "neggrad": {},
}


@pytest.fixture(autouse=True)
def _short(few_digits, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    short = {
        name: replace(method, max_steps=2, **LITTLE[name]) for name, method in demo.RUNS.items()
    }
    monkeypatch.setattr(demo, "RUNS", short)
    monkeypatch.setattr(demo, "EPOCHS", 10)


def test_the_page_compares_every_method(capsys):
    assert cli.main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert out == "report  demo/report.html\n"
    assert "training: 50/50" in err
    assert "STRUCTGUARD: unlearning: 2/2" in err
    assert {path.name for path in Path("demo").iterdir()} == {
        "manifest.json",
        "report.html",
        *demo.RUNS,
    }
    page = Path("demo/report.html").read_text()
    assert "Forgetting 16 handwritten digits" in page
    rows = [json.loads((Path("demo") / name / "row.json").read_text()) for name in demo.RUNS]
    for row in rows:
        assert row["method_title"] in page
        assert (row["k"], row["anchors"], row["dataset"]) == (16, "digits", "digits")
        assert (row["n_test"], row["n_retain"]) == (100, 320 - 16)
    assert len({row["weights_digest"] for row in rows}) == 1
    assert len({row["unlearned_digest"] for row in rows}) == len(rows)
    assert rows[0]["acc_test_before"] > 40  # of ten classes, after a short training
    assert [path.name for path in Path.cwd().iterdir()] == ["demo"]


def test_it_appears_whole_or_not_at_all_and_replaces_only_its_own(monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "RUNS", {"neggrad": demo.RUNS["neggrad"]})
    network = demo.train(load_data("digits", size=demo.SIZE).train, tuple("0123456789"))
    monkeypatch.setattr(demo, "train", lambda *_: network)
    out = Path("demo")
    with monkeypatch.context() as patch:
        patch.setattr(demo, "write_report", stop)
        with pytest.raises(KeyboardInterrupt):
            demo.run_demo(out)
    assert list(Path.cwd().iterdir()) == []
    demo.run_demo(out)
    with pytest.raises(InputError, match=r"demo is not empty: .*--overwrite"):
        demo.run_demo(out)
    (out / "neggrad" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds neggrad/notes\.txt"):
        demo.run_demo(out, overwrite=True)
    (out / "neggrad" / "notes.txt").rename(out / "notes.txt")
    with pytest.raises(InputError, match=r"holds notes\.txt"):
        demo.run_demo(out, overwrite=True)
    (out / "notes.txt").unlink()
    assert demo.run_demo(out, overwrite=True) == out / "report.html"


def test_training_is_repeatable_and_touches_no_global_randomness(monkeypatch):
    monkeypatch.setattr(demo, "EPOCHS", 2)
    splits = load_data("digits", size=demo.SIZE)
    state = torch.random.get_rng_state()
    seen = []
    first = demo.train(splits.train, splits.class_names, 0, lambda *words: seen.append(words))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    again = demo.train(splits.train, splits.class_names, 0, lambda *words: None)
    assert first.digest() == again.digest()
    assert not first.training
    assert seen[-1] == ("training", 10, 10)
