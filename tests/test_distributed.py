"""Two processes against one: the same weights, rows and checkpoints."""

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cluster_storm import free_port
from command_line import Forked, forked, wait_until
from stakes.cli import commands as cli
from stakes.methods import Fisher, NegGrad, StructGuard
from stakes.training import distributed
from stakes.training.sharding import sharded
from two_processes import METHODS, activated, compare, divided, dropped, interrupted, network

pytestmark = pytest.mark.slow


def environment(count: int) -> list[dict[str, str]]:
    """What torchrun tells each of so many processes."""
    port = str(free_port())
    own = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**own, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def start(count: int, action: Callable[[], None], folder: Path) -> list[Forked]:
    """Processes that do something together, as torchrun would start them."""

    def work(told: dict[str, str]) -> int:
        os.environ.update(told)
        with distributed.joined():
            action()
        return 0

    return [forked(partial(work, told), folder, told["RANK"]) for told in environment(count)]


def finish(processes: list[Forked]) -> None:
    """All of them end well."""
    for process in processes:
        assert process.wait() == 0, process.err.read_text()


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of what one process and two have computed."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    finish([*start(1, partial(compare, one), one), *start(2, partial(compare, two), two)])
    return one, two


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_reach_the_weights_of_one(both, name):
    one, two = (load_file(folder / f"{name}.safetensors") for folder in both)
    alone, together = (json.loads((folder / f"{name}.json").read_text()) for folder in both)
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
    original = network().state_dict()
    assert max(float((one[key] - original[key]).abs().max()) for key in one) > 1e-3
    assert together["end"] == alone["end"]
    assert together["losses"] == pytest.approx(alone["losses"], rel=1e-3, abs=1e-4)
    for key, value in alone["row"].items():
        if isinstance(value, float):
            assert together["row"][key] == pytest.approx(value, rel=1e-3, abs=1e-3), key
        else:
            assert together["row"][key] == value, key


def test_two_processes_hold_the_activations_of_a_sidecar_as_one_does(tmp_path):
    found = []
    for count in (1, 2):
        out = tmp_path / str(count)
        out.mkdir()
        finish(start(count, partial(activated, out), out))
        assert (out / "probes").read_text() == "surrogates and activations and mixed"
        found.append(load_file(out / "weights"))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5)


def test_dropout_of_two_processes_keeps_them_alike_and_goes_on_where_it_was(tmp_path):
    plain, broken = tmp_path / "plain", tmp_path / "broken"
    plain.mkdir()
    broken.mkdir()
    finish(start(2, partial(dropped, plain), plain))
    for process in start(2, partial(dropped, broken, 3), broken):
        assert process.wait() == 1
    finish(start(2, partial(dropped, broken), broken))
    found = [(at / f"digest-{i}").read_text() for at in (plain, broken) for i in (0, 1)]
    assert len(set(found)) == 1


def test_divided_weights_reach_those_of_one_process(both, tmp_path):
    finish(start(2, partial(divided, tmp_path), tmp_path))
    for name in ("exact", "deep", "views"):
        found, one = load_file(tmp_path / name), load_file(both[0] / f"{name}.safetensors")
        torch.testing.assert_close(found, one, rtol=0, atol=1e-5)
    for rank in (0, 1):
        shares = json.loads((tmp_path / f"shares-{rank}").read_text())
        assert sum(name.endswith("gradient") for name in shares) >= 4
        assert set(shares.values()) == {0.5}, shares


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    finish(start(1, partial(interrupted, folder / "run", 0), folder))
    return folder / "run"


@pytest.mark.parametrize(
    ("first", "second", "divide"),
    [(1, 2, ()), (2, 1, ()), (2, 1, (1,)), (1, 2, (2,)), (3, 2, (1, 2))],
)
def test_a_checkpoint_goes_on_with_other_processes(tmp_path, whole, first, second, divide):
    out = tmp_path / "run"
    begun = partial(interrupted, out, 6, divide=1 in divide)
    for process in start(first, begun, tmp_path):
        assert process.wait() == 1
    assert not out.exists()
    finish(start(second, partial(interrupted, out, 0, divide=2 in divide), tmp_path))
    assert (tmp_path / "said").read_text().count("going on after step 5") == 1
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, out))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
    row = json.loads((out / "row.json").read_text())
    assert row["processes"] == second


def test_interrupted_scoring_resumes_in_every_process(tmp_path):
    out, said = tmp_path / "run", tmp_path / "said"
    for process in start(2, partial(interrupted, out, 1, "scoring retain"), tmp_path):
        assert process.wait() == 1
    first = said.read_text()
    assert first.count("passed 41\n") == 4  # test images: by two networks, in two processes
    finish(start(2, partial(interrupted, out, 0), tmp_path))
    second = said.read_text().removeprefix(first)
    assert "going on after step 12, the last" in second
    assert "scoring retain 153" in second
    assert "passed" not in second


def test_a_process_that_dies_ends_the_other_with_one_line(tmp_path):
    words = "unlearn --model stakes:digits_cnn --weights random --data digits --forget random:8 "
    words += "--probe-batch 8 --settle 0 --lr 1e-30 --max-steps 1000000 --force --out out"

    def work(told: dict[str, str]) -> int:
        os.environ.update(told)
        return cli.main(words.split())

    first, second = (forked(partial(work, told), tmp_path, told["RANK"]) for told in environment(2))
    wait_until(lambda: first.err.exists() and "unlearning: " in first.err.read_text())
    os.kill(second.number, signal.SIGKILL)
    assert second.wait() == -signal.SIGKILL
    assert first.wait() == 1  # without the signal it would take half an hour
    assert first.err.read_text().splitlines()[-1] == (
        "stakes: cannot continue: another process of this run has ended"
    )


def test_what_cannot_be_divided_is_refused_by_name(monkeypatch, capsys, classifier):
    monkeypatch.setattr(distributed, "count", lambda: 2)
    with pytest.raises(ValueError, match="Fisher"):
        Fisher().check_processes(classifier)
    with pytest.raises(ValueError, match="add --batch-norm eval"):
        NegGrad(batch_norm="train").check_processes(classifier)
    NegGrad(batch_norm="eval").check_processes(classifier)
    with sharded(), pytest.raises(ValueError, match="NegGrad cannot divide its weights"):
        NegGrad(batch_norm="eval").check_processes(classifier)
    monkeypatch.undo()
    with sharded(), pytest.raises(ValueError, match="start the command with torchrun"):
        StructGuard().check_processes(classifier)
    words = "unlearn --model stakes:digits_cnn --weights random --data digits --forget random:8"
    assert cli.main([*words.split(), "--out", "out", "--shard"]) == 2
    assert "start the command with torchrun" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["demo"]) == 2
    assert "torchrun works only with stakes unlearn and evaluate" in capsys.readouterr().err
