"""An interrupted run goes on to the bits of an uninterrupted one; test_methods.py asks all."""

import copy
import hashlib
import io
import os
import pickle
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from checks import found
from stakes import METHODS, Classifier, StructGuard, progress
from stakes.anchors.anchors import Anchors
from stakes.data.images import ImageArray
from stakes.files import DIGEST
from stakes.methods import StructGuardPaper
from stakes.methods.structguard import default
from stakes.progress import Stopwatch
from stakes.runs.folder import resumable
from stakes.runs.record import Request, record
from stakes.training import checkpoint
from stakes.training.adaptive import AdaptiveMargin
from stakes.training.batches import Batches
from stakes.training.checkpoint import Checkpoint
from stakes.training.schedule import Schedule

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn", "unattacked")]

#: The learning rate is halved, the margin grows, the hold gives way, and the run settles.
ADAPTIVE = StructGuard(
    lr=0.05, depth=1, probe_batch=16, forget_batch=4, patience=2, max_drift=0.05, settle=0.3,
    max_steps=40,
)  # fmt: skip
PAPER = StructGuardPaper(
    lr=1e-3, importance_probes=4, importance_every=4, probes_per_image=3, pgd_iterations=5,
    probe_batch=9, max_steps=12,
)  # fmt: skip
SHORT = METHODS["neggrad"](lr=1e-5, forget_batch=4, max_steps=7)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """What the default does in many steps, in few."""
    for name, value in {"WARMUP": 3, "SETTLE_LEAST": 4, "CHECK_EVERY": 3}.items():
        monkeypatch.setattr(default, name, value)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder where the state is kept, after every step."""
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    return tmp_path / "kept"


@pytest.fixture
def stop_after(monkeypatch):
    """Interrupts once the state after a step is written, and not again."""
    save = Checkpoint.save

    def prepare(last: int) -> None:
        def saving(self, step, history):
            save(self, step, history)
            if step == last:
                monkeypatch.setattr(Checkpoint, "save", save)
                raise KeyboardInterrupt

        monkeypatch.setattr(Checkpoint, "save", saving)

    return prepare


@pytest.fixture(scope="module")
def plain(trained, forget, anchors):
    """The short run without a checkpoint."""
    return SHORT(trained, forget, anchors=anchors)


class Notes(list):
    """What a run reports: the notes of its phase "interrupted run"."""

    def __call__(self, phase, done, total, note=""):
        if phase == "interrupted run":
            self.append((done, total, note))


@pytest.mark.parametrize(("method", "steps"), [(ADAPTIVE, (5, 13, 26)), (PAPER, (2, 7))])
def test_it_goes_on_to_the_same_bits_however_often(
    method, steps, classifier, forget, anchors, place, stop_after, monkeypatch
):
    whole = method(classifier, forget, anchors=anchors, seed=3)
    notes = Notes()
    for step in steps:
        stop_after(step)
        with pytest.raises(KeyboardInterrupt):
            method(classifier, forget, anchors=anchors, seed=3, checkpoint=place, progress=notes)
    again = method(classifier, forget, anchors=anchors, seed=3, checkpoint=place, progress=notes)
    assert notes == [(step, method.max_steps, f"going on after step {step}") for step in steps]
    monkeypatch.setattr("stakes.training.loop.take_steps", lambda *args, **more: 1 / 0)
    ended = method(classifier, forget, anchors=anchors, seed=3, checkpoint=place, progress=notes)
    last = int(whole.history[-1]["step"])
    assert notes[-1] == (last, method.max_steps, f"going on after step {last}, the last")
    for run in (again, ended):
        assert run.classifier.digest() == whole.classifier.digest()
        assert [other.digest() for other in run.other.values()] == [
            other.digest() for other in whole.other.values()
        ]
        assert run.history == whole.history
        assert (run.ending, run.chosen) == (whole.ending, whole.chosen)


def test_the_adaptive_run_of_these_tests_has_something_to_keep(classifier, forget, anchors):
    chosen = ADAPTIVE(classifier, forget, anchors=anchors, seed=3).chosen
    assert chosen["lr"] < ADAPTIVE.lr
    assert chosen["margin"] > ADAPTIVE.margin or chosen["feature_scale"] < 1


def test_an_interruption_within_a_step_costs_that_step(plain, classifier, forget, anchors, place):
    notes = Notes()

    def stop(phase, done, total, note=""):
        if phase == "unlearning" and done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SHORT(classifier, forget, anchors=anchors, checkpoint=place, progress=stop)
    again = SHORT(classifier, forget, anchors=anchors, checkpoint=place, progress=notes)
    assert notes == [(5, 7, "going on after step 5")]
    assert again.history == plain.history
    assert [path.name for path in place.iterdir()] == [again.checkpoint.name]  # nothing temporary


def other_weights(classifier, forget):
    with torch.no_grad():
        classifier.head.bias[0] += 1e-3


def other_images(classifier, forget):
    forget.images[0, 0, 0, 0] += 1 / 255


def frozen_layer(classifier, forget):
    classifier.body.conv1.requires_grad_(False)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"seed": 1}, "seed"),
        ({"anchors": "other"}, "anchors"),
        ({"method": replace(SHORT, lr=2e-5)}, "method or setting"),
        (other_weights, "network"),
        (other_images, "forget set"),
        (frozen_layer, "layers to change"),
    ],
)
def test_what_another_job_left_is_told_and_not_used(
    change, part, classifier, forget, anchors, place, stop_after
):
    forget = replace(forget, images=forget.images.clone())
    stop_after(4)
    with pytest.raises(KeyboardInterrupt):
        SHORT(classifier, forget, anchors=anchors, checkpoint=place)
    given = {"method": SHORT, "anchors": anchors, "seed": 0}
    if callable(change):
        change(classifier, forget)
    else:
        given |= change
    if given["anchors"] == "other":
        given["anchors"] = Anchors(anchors.vectors.flip(1), anchors.class_names, {})
    method, notes = given.pop("method"), Notes()
    again = method(classifier, forget, checkpoint=place, progress=notes, **given)
    assert notes == [
        (0, 7, f"starting over: the checkpoint was written with another {part}; it is kept")
    ]
    assert again.history == method(classifier, forget, **given).history


@pytest.mark.parametrize("part", ["retained data", "surrogates"])
def test_so_is_what_was_left_with_other_images_beside_the_forget_set(
    part, classifier, forget, anchors, train_images, place, stop_after
):
    if part == "retained data":
        kind, method = "retain", METHODS["finetune"](retain_batch=32, max_steps=7)
    else:
        kind, method = "surrogates", StructGuard(probe_batch=16, max_steps=7)
    pixels = train_images.pixels ^ 1
    pixels[list(forget.indices)] = train_images.pixels[list(forget.indices)]
    other = ImageArray(pixels, train_images.labels)
    stop_after(4)
    with pytest.raises(KeyboardInterrupt):
        method(classifier, forget, anchors=anchors, checkpoint=place, **{kind: train_images})
    notes = Notes()
    method(classifier, forget, anchors=anchors, checkpoint=place, progress=notes, **{kind: other})
    said = f"starting over: the checkpoint was written with another {part}; it is kept"
    assert notes == [(0, 7, said)]


def test_a_slip_costs_nothing_since_the_states_of_other_jobs_stay(
    classifier, forget, anchors, place, stop_after
):
    stop_after(4)
    with pytest.raises(KeyboardInterrupt):
        SHORT(classifier, forget, anchors=anchors, checkpoint=place)
    slip = replace(SHORT, lr=2e-5)(classifier, forget, anchors=anchors, checkpoint=place)
    slip.checkpoint.unlink()
    notes = Notes()
    SHORT(classifier, forget, anchors=anchors, checkpoint=place, progress=notes)
    assert notes == [(4, 7, "going on after step 4")]


def test_other_threads_are_another_job(classifier, forget, anchors, place, stop_after):
    stop_after(4)
    with pytest.raises(KeyboardInterrupt):
        SHORT(classifier, forget, anchors=anchors, checkpoint=place)
    notes = Notes()
    torch.set_num_threads(2)
    try:
        SHORT(classifier, forget, anchors=anchors, checkpoint=place, progress=notes)
    finally:
        torch.set_num_threads(1)
    assert notes == [
        (
            0,
            7,
            "starting over: the checkpoint was written with another number of threads; it is kept",
        )
    ]


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def sealed(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def saved(thing) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return sealed(buffer.getvalue())


def crafted(place, change) -> None:
    """Write a state as the package does, with something changed in it."""
    (file,) = place.iterdir()
    state = torch.load(io.BytesIO(file.read_bytes()[DIGEST:]), weights_only=True)
    change(state)
    file.write_bytes(saved(state))


def other_shape(state):
    (optimizer,) = [s for s in state["states"] if isinstance(s, dict) and "param_groups" in s]
    optimizer["state"][0]["momentum_buffer"] = torch.zeros(3, 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(step=10**9),
        lambda state: state.update(step=7),
        lambda state: state.update(step=-1),
        lambda state: state.update(step=4.0),
        lambda state: state.update(step=7, ending=["forgotten"]),
        lambda state: state.update(step=7, ending=["won", "all is well"]),
        lambda state: state.update(step=8, ending=["forgotten", "forgotten: all"]),
        lambda state: state.update(history=[]),
        lambda state: state.update(history=[{"step": 0.0}, {"step": 5.0}]),
        lambda state: state.update(history=[{"step": 0.0, "loss": "none"}]),
        lambda state: state.update(states=state["states"][1:]),
        lambda state: state.update(states=[{} for _ in state["states"]]),
        lambda state: state["job"].update(seed="1"),
        other_shape,
    ],
)
def test_a_crafted_state_is_not_believed(
    plain, change, classifier, forget, anchors, place, stop_after
):
    stop_after(4)
    with pytest.raises(KeyboardInterrupt):
        SHORT(classifier, forget, anchors=anchors, checkpoint=place)
    crafted(place, change)
    notes = Notes()
    again = SHORT(classifier, forget, anchors=anchors, checkpoint=place, progress=notes)
    assert "cannot be used" in notes[0][2]
    assert again.history == plain.history
    assert again.classifier.digest() == plain.classifier.digest()


def linked(file, elsewhere):
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def pipe(file, elsewhere):
    file.unlink()
    os.mkfifo(file)


def writable_by_all(file, elsewhere):
    file.chmod(0o666)


def of_somebody_else(file, elsewhere):
    if os.geteuid() != 0:
        pytest.skip("only the administrator can give a file away")
    os.chown(file, 12345, 12345)


@pytest.mark.parametrize("plant", [linked, pipe, writable_by_all, of_somebody_else])
def test_a_state_that_somebody_else_may_have_planted_is_not_followed(
    plain, plant, classifier, forget, anchors, place, tmp_path, stop_after
):
    stop_after(4)
    with pytest.raises(KeyboardInterrupt):
        SHORT(classifier, forget, anchors=anchors, checkpoint=place)
    (file,) = place.iterdir()
    plant(file, tmp_path / "elsewhere")
    notes = Notes()
    again = SHORT(classifier, forget, anchors=anchors, checkpoint=place, progress=notes)
    assert notes[0][0] == 0
    assert "cannot be used" in notes[0][2]
    assert again.history == plain.history


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda content: b"", "it is damaged"),
        (lambda content: content[: len(content) // 2], "it is damaged"),
        (flipped, "it is damaged"),
        (lambda content: sealed(b"no archive"), ""),
        (lambda content: sealed(pickle.dumps(Bomb())), ""),
        (lambda content: saved({"job": Bomb()}), ""),
        (lambda content: saved([1, 2]), "it is something else"),
        (lambda content: saved({"weights": 1}), "it is something else"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_and_replaced(
    plain, damage, why, classifier, forget, anchors, place, stop_after, monkeypatch
):
    stop_after(4)
    with pytest.raises(KeyboardInterrupt):
        SHORT(classifier, forget, anchors=anchors, checkpoint=place)
    (file,) = place.iterdir()
    assert len(file.read_bytes()) > DIGEST
    file.write_bytes(damage(file.read_bytes()))
    monkeypatch.chdir(place)
    notes = Notes()
    again = SHORT(classifier, forget, anchors=anchors, checkpoint=place, progress=notes)
    ((done, _, note),) = notes
    assert done == 0
    assert note.startswith(f"starting over: {file.name} cannot be used ({why}")
    assert list(place.iterdir()) == [file]  # nothing was executed
    assert again.history == plain.history
    notes.clear()
    SHORT(classifier, forget, anchors=anchors, checkpoint=place, progress=notes)
    assert notes == [(7, 7, "going on after step 7, the last")]


def test_a_state_that_cannot_be_written_stops_nothing(plain, classifier, forget, anchors, place):
    place.write_text("a file in the place of the folder")
    result = SHORT(classifier, forget, anchors=anchors, checkpoint=place)
    assert result.history == plain.history


def test_it_is_written_now_and_then_and_less_often_where_that_is_slow(tmp_path, monkeypatch):
    now, took, written = [1000.0], [0.0], []

    def write(self, path, step, history):
        written.append(now[0])
        now[0] += took[0]

    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Checkpoint, "_write", write)
    place = Checkpoint(tmp_path / "state")
    place.restore(200)
    for step in range(200):
        took[0] = 2.0 if step > 65 else 0.1
        place.save(step, [])
        now[0] += 1
    assert written[:2] == [1030.0, pytest.approx(1060.1, abs=1)]
    later = [b - a for a, b in pairwise(written[2:])]
    assert later
    assert all(61 < gap < 64 for gap in later)


def test_the_end_of_short_steps_is_not_saved(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    place = Checkpoint(tmp_path, {"seed": "0"})
    place.restore(9)
    now[0] = checkpoint.WORTH - 1
    place.end([{"step": 0.0}, {"step": 1.0}], ("forgotten", "forgotten: all"))
    assert not place.path.exists()
    now[0] += 1
    place.end([{"step": 0.0}, {"step": 1.0}], ("forgotten", "forgotten: all"))
    assert place.path.exists()


def test_what_comes_too_late_to_be_kept_is_refused(tmp_path):
    place = Checkpoint(tmp_path / "state")
    place.keep(nn.Linear(1, 1))
    assert place.restore(1) == (0, [], "")
    with pytest.raises(RuntimeError, match="before"):
        place.keep(nn.Linear(1, 1))


def test_a_restored_tensor_goes_to_the_device_of_the_run():
    elsewhere = AdaptiveMargin(4, 0.3, patience=2, device=torch.device("meta"))
    elsewhere.load_state_dict(AdaptiveMargin(4, 0.3, patience=2).state_dict())
    assert {tensor.device.type for tensor in elsewhere.state_dict().values()} == {"meta"}


def balance_trace(cut: int | None) -> list[tuple[float, float, float]]:
    """Sum of the margins, hold and share known over steps in which ever fewer images are known."""
    generator = torch.Generator().manual_seed(0)
    balance, trace = AdaptiveMargin(40, 0.3, patience=2), []
    for step in range(120):
        if step == cut:
            state = copy.deepcopy(balance.state_dict())
            balance = AdaptiveMargin(40, 0.3, patience=2)
            balance.load_state_dict(state)
        lead = torch.randn(10, generator=generator) - step / 40
        balance.see(torch.randperm(40, generator=generator)[:10], lead)
        trace.append(
            (float(balance.margin.sum()), float(balance.feature_scale), float(balance.known))
        )
    return trace


def test_the_balance_goes_on_as_it_was():
    whole = balance_trace(None)
    assert whole[-1][0] > 0.3
    assert whole[-1][1] < 1
    for cut in range(0, 120, 5):
        assert balance_trace(cut) == whole


def pace_trace(cut: int | None, seed: int) -> list[tuple[float, float, bool, int]]:
    """Learning rate, weight, settling and halvings over checks of a drift often too large."""
    generator = torch.Generator().manual_seed(seed)

    def begin(value: float) -> tuple[nn.Parameter, torch.optim.Optimizer, Schedule]:
        weight = nn.Parameter(torch.tensor(value))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        options = {"warmup": 7, "settle": 0.5, "settle_least": 3, "max_drift": 0.27, "backoffs": 3}
        return weight, optimizer, Schedule(optimizer, **options)

    weight, optimizer, schedule = begin(1.0)
    trace = []
    for step in range(1, 41):
        if step == cut:
            states = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
            value, (weight, optimizer, schedule) = weight.detach(), begin(1.0)
            with torch.no_grad():
                weight.copy_(value)
            for thing, state in zip((optimizer, schedule), states, strict=True):
                thing.load_state_dict(state)
        schedule.set(step)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        drift, chance = torch.rand(2, generator=generator).tolist()
        schedule.after(step, found(chance < 0.5, 0.3 * drift))
        size = optimizer.param_groups[0]["lr"]
        trace.append((size, float(weight.detach()), schedule.settling, len(schedule.halved_at)))
    return trace


def test_the_pace_goes_on_as_it_was():
    for seed in range(5):
        whole = pace_trace(None, seed)
        assert any(settling for _, _, settling, _ in whole)
        assert whole[-1][3] > 0
        for cut in range(1, 41, 2):
            assert pace_trace(cut, seed) == whole


def test_batches_go_on_within_an_epoch():
    one, other = (Batches(10, 3, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    expected = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    seen = [next(one), next(one)]
    other.load_state_dict(one.state_dict())
    seen += [next(other), next(other)]
    assert [len(batch) for batch in seen] == [3, 3, 3, 1]
    assert torch.equal(torch.cat(seen), expected)
    assert [len(next(other)) for _ in range(5)] == [3, 3, 3, 1, 3]


def test_seconds_go_on_and_what_is_done_again_counts_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    first, second = Stopwatch(), Stopwatch()
    with first.timed("probes"):
        now[0] += 5
    with first.timed("unlearn"):
        now[0] += 10
        with first.timed("importance"):
            now[0] += 2
        now[0] += 1
        state = first.state_dict()
    assert state == {"probes": 5, "unlearn": 11, "importance": 2}
    with second.timed("probes"):
        now[0] += 6
    with second.timed("unlearn"):
        second.load_state_dict(state)
        now[0] += 3
    assert second.seconds == {"probes": 5, "unlearn": 14, "importance": 2}
    assert second.earlier == 5 + 11 + 2 - 6


def test_a_run_on_disk_keeps_its_state_until_all_is_written(
    classifier, forget, anchors, test_images, place, tmp_path, monkeypatch, stop_after
):
    out = tmp_path / "out"
    request = Request(SHORT, classifier, forget, anchors, test=test_images)
    whole = record(request, tmp_path / "whole")
    stop_after(6)
    with pytest.raises(KeyboardInterrupt):
        record(request, out)
    with monkeypatch.context() as patch:
        patch.setattr(
            "stakes.runs.record.evaluate", lambda *args, **options: 1 / 0
        )  # while scoring
        with pytest.raises(ZeroDivisionError):
            record(request, out)
    assert resumable(out)
    notes = Notes()
    row = record(request, out, notes)
    assert notes == [(7, 7, "going on after step 7, the last")]
    assert row["unlearned_digest"] == whole["unlearned_digest"]
    assert row["seconds_total"] >= row["seconds_unlearn"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def with_dropout() -> Classifier:
    """A network as others make it: what follows the pooling is dropped out in training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveAvgPool2d(1)]
        network = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 4))
    return Classifier.wrap(network, input_size=8)


@pytest.mark.parametrize("name", ["neggrad", "delete", "l2ul", "finetune"])
def test_dropout_draws_from_the_seed_and_goes_on_where_it_was(
    name, forget, train_images, place, stop_after
):
    network, method = with_dropout(), METHODS[name](lr=0.01, max_steps=6)
    given = {"retain": train_images} if method.needs_retain else {}
    torch.manual_seed(7)
    whole = method(network, forget, seed=3, **given)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(7)))
    stop_after(3)
    with pytest.raises(KeyboardInterrupt):
        method(network, forget, seed=3, checkpoint=place, **given)
    torch.manual_seed(8)  # nothing of it has a part
    again = method(network, forget, seed=3, checkpoint=place, **given)
    other = method(network, forget, seed=4, **given)
    assert again.history == whole.history
    assert again.classifier.digest() == whole.classifier.digest() != other.classifier.digest()
