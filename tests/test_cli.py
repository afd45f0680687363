"""The command line as a user meets it: files, messages, precedence, interruptions."""

import io
import json
import os
import pickle
import pty
import re
import shlex
import signal
import sys
import time
import traceback
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from command_line import (
    command,
    forked,
    noise,
    ran,
    refused,
    row_of,
    spawned,
    wait_until,
    with_options,
    write_images,
)  # fmt: skip
from conftest import CLASSES, blobs, once
from stakes import Classifier, ForgetSet, StructGuard, load_data
from stakes.cli import commands as cli
from stakes.cli import unlearn as unlearning
from stakes.evaluation.evaluate import evaluate
from stakes.methods import METHODS, method_class
from stakes.models.networks import MODELS
from stakes.rows import INCOMPLETE, METRICS
from stakes.training import checkpoint

pytestmark = pytest.mark.usefixtures("undrawn")

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FILES = {
    "model.safetensors", "model.json", "row.json", "history.jsonl", "evidence.json",
    "stakes.safetensors", "report.html", "manifest.json", "forgotten.json",
}  # fmt: skip
QUICK = ["--probe-batch", "16", "--max-steps", "2"]


@pytest.fixture
def base(place, unattacked, tmp_path, monkeypatch) -> list[str]:
    """A command that forgets all of six images in a few steps, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return command(place)


class Done(NamedTuple):
    """A command that has run to its end: its words, its folder, and what it printed."""

    words: list[str]
    folder: Path
    out: str
    err: str


@pytest.fixture(scope="session")
def done(place, tmp_path_factory) -> Done:
    """The command of ``base`` as a program, run once for all that look at its result."""
    words = command(place)

    def run(folder: Path) -> None:
        with (folder / "err").open("w") as err, spawned(words, folder, stderr=err) as process:
            (folder / "out").write_bytes(process.communicate(timeout=240)[0])
        assert process.returncode == 0, (folder / "err").read_text()

    folder = once(tmp_path_factory, "done", run)
    return Done(words, folder / "OUT", (folder / "out").read_text(), (folder / "err").read_text())


#: Options in the command that only StructGuard has.
OURS = {"probe-batch": "", "depth": "", "patience": "", "settle": ""}


# the example of the documentation


EXAMPLE = (
    "unlearn --model stakes:cifar_resnet20 --weights {weights} --mean .485 .456 .406 "
    "--std .229 .224 .225 --data {data} --forget random:64 --method structguard "
    "--anchors cifar10 --seed 0 --out OUT"
)


@pytest.fixture(scope="module")
def cifar_like(tmp_path_factory) -> Path:
    """Noise in the shape of CIFAR-10, and random weights as the usual public file holds them."""
    place = tmp_path_factory.mktemp("cifar")
    labels = torch.arange(80) % 10
    write_images(place / "data" / "train", noise(80), labels, CIFAR)
    write_images(place / "data" / "test", noise(20, 1), labels[:20], CIFAR)
    network = Classifier.load("stakes:cifar_resnet20", num_classes=10)
    state = {f"module.{name}": value for name, value in network.network_state().items()}
    torch.save({"state_dict": state, "best_prec1": 91.7}, place / "resnet20.th")
    return place


def test_the_example_asks_for_exactly_this(cifar_like, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        unlearning, "record", lambda request, out, *_, **__: asked.append((request, out))
    )
    monkeypatch.setattr(unlearning, "summary", lambda row: "")
    monkeypatch.setattr(unlearning, "incomplete", lambda row: False)
    monkeypatch.chdir(tmp_path)
    line = EXAMPLE.format(weights=cifar_like / "resnet20.th", data=cifar_like / "data")
    assert cli.main(shlex.split(line)) == 0
    [(request, out)] = asked
    assert request.method == StructGuard()
    assert request.classifier.spec == "stakes:cifar_resnet20"
    card = request.classifier.card()
    assert (card["mean"], card["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected = ForgetSet.random(load_data(cifar_like / "data").train, 64, 0)
    assert request.forget.digest() == expected.digest()
    assert request.anchors.card["name"] == "cifar10"
    assert (request.seed, request.eval_samples, str(out)) == (0, None, "OUT")
    assert (len(request.retain), len(request.test)) == (80, 20)
    assert request.asked["command"] == f"stakes {line}"


@pytest.mark.slow
def test_the_example_writes_a_network_that_plain_code_loads(
    cifar_like, no_page, unattacked, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    line = EXAMPLE.format(weights=cifar_like / "resnet20.th", data=cifar_like / "data")
    words = shlex.split(line.replace("random:64", "random:8"))
    ran([*words, *QUICK, "--eval-samples", "8", "--force"])  # random weights recognise little
    row = row_of("OUT")
    assert (row["k"], row["n_retain"]) == (8, 8)
    assert (row["method"], row["anchors"]) == ("structguard", "cifar10")
    plain = MODELS["cifar_resnet20"](10)
    plain.load_state_dict(load_file("OUT/model.safetensors"))


@pytest.mark.slow
def test_the_example_on_real_images(shared, tmp_path, monkeypatch, capsys):
    import tarfile

    count = dict.fromkeys(CIFAR, 0)
    with tarfile.open(shared / "cifar10" / "test.tar") as archive:
        for member in archive:
            name = Path(member.name).parent.name
            if member.isfile() and name in count and count[name] < 6:
                count[name] += 1
                data = archive.extractfile(member).read()
                path = tmp_path / "data" / ("test" if count[name] > 4 else "train") / name
                path.mkdir(parents=True, exist_ok=True)
                Image.open(io.BytesIO(data)).save(path / f"{count[name]}.png")
            if min(count.values()) == 6:
                break
    monkeypatch.chdir(tmp_path)
    weights = shared / "weights" / "resnet20-12fca82f.th"
    line = EXAMPLE.format(weights=weights, data="data").replace("random:64", "random:4")
    ran([*shlex.split(line), *QUICK])
    row = row_of("OUT")
    assert row["acc_retain_before"] > 80
    assert row["n_retain"] == 36
    assert row["acc_test_before"] > 70


# what a run writes


@pytest.mark.slow
def test_files_row_and_streams(done, place):
    assert {path.name for path in done.folder.iterdir()} == FILES
    assert {path.name for path in done.folder.parent.iterdir()} == {"OUT", "out", "err"}
    assert "\x1b" not in done.err + done.out  # no terminal
    assert re.fullmatch(
        r"STRUCTGUARD, \d+ steps?: forgotten: no forget image.s class is first or second choice\n"
        r"forget images recognised    100.00 % ->   0.00 %\n"
        r"recognised by two guesses   100.00 % ->   0.00 %\n"
        r"test accuracy               .*\nretained accuracy           100.00 % -> .*\n"
        r"altered copies recognised   +\d+\.\d\d % -> +\d+\.\d\d %\n"
        r"model   OUT/model.safetensors\nreport  OUT/report.html\n",
        done.out,
    )
    first, *rest = done.err.splitlines()
    assert first == (
        f"stakes:digits_cnn, 4 classes, on cpu; weights {place}/net.th; anchors head; "
        "6 images to forget; preprocessing: largest centred square scaled "
        "(bicubic)"
    )
    assert all(re.match(r"(reading|unlearning|scoring|looking).*: \d+/\d+", line) for line in rest)
    row = row_of(done.folder)
    assert len(rest) < 11 + row["seconds_total"] / 10, "a long phase has a line every ten seconds"
    assert METRICS.keys() <= row.keys()
    for key in (key for key in METRICS if key.startswith(("acc_", "forget_", "probe_", "mia_"))):
        if key in ("mia_retain_found", "mia_forget_found", "mia_forget_unlikely"):
            assert row[key] is None  # 20 test images are too few for one false alarm in a hundred
            continue
        if key.endswith("_classes"):
            assert row[key] is None  # single images are no whole classes
            continue
        if key == "forget_top5":
            assert row[key] is None  # of four classes it would say nothing
            continue
        assert 0 <= row[key] <= 100
        assert 0 <= row[f"{key}_before"] <= 100
    assert {"drift_probes", "seconds_probes", "seconds_importance"} <= row.keys()
    for key in ("seconds_unlearn", "seconds_evaluate", "seconds_total", "peak_memory_mb"):
        assert row[key] > 0
    assert row["seconds_probes"] is None  # the default makes none beforehand
    for key in ("weights", "unlearned", "forget", "anchors"):
        assert re.fullmatch(r"[0-9a-f]{64}", row[f"{key}_digest"])
    assert row["unlearned_digest"] == Classifier.load(done.folder).digest()
    assert row["weights_digest"] != row["unlearned_digest"]
    assert row["command"] == shlex.join(["stakes", *done.words])
    assert row["weights"] == f"{place}/net.th"
    assert (row["k"], row["n_retain"], row["n_test"], row["seed"]) == (6, 34, 20, 0)
    assert torch.__version__.startswith(row["version_torch"])
    history = [
        json.loads(line) for line in (done.folder / "history.jsonl").read_text().splitlines()
    ]
    assert [step["step"] for step in history] == list(range(row["steps"] + 1))
    assert history[-1]["forget_accuracy"] == 0
    assert "data:image/png" in (done.folder / "report.html").read_text()


@pytest.mark.slow
def test_whole_classes_drawn_by_their_share(base, capsys):
    ran([*with_options(base, forget="classes:50%"), "--max-steps", "2"])
    row = row_of("OUT")
    assert (row["forget"], row["k"], row["n_retain"]) == ("classes:50%", 20, 20)
    assert len(row["forgotten_classes"]) == 2
    assert "of classes to be kept" in capsys.readouterr().out
    for name in ("forgotten", "kept"):
        assert 0 <= row[f"acc_test_{name}_classes"] <= 100
    assert "of the forgotten classes" in Path("OUT/report.html").read_text()


@pytest.mark.slow
def test_in_python_the_same_in_under_ten_lines(done, place):
    row = row_of(done.folder)
    data = load_data(place / "data")
    classifier = Classifier.load(
        "stakes:digits_cnn", weights=place / "net.th", class_names=data.class_names, input_size=8
    )
    forget = ForgetSet.random(data.train, 6, seed=0)
    result = StructGuard(lr=3e-3, probe_batch=32, depth=1.0, patience=4, settle=0.2)(
        classifier, forget, seed=0
    )
    scores, _ = evaluate(classifier, result.classifier, forget, test=data.test, retain=data.train)
    assert result.classifier.digest() == row["unlearned_digest"]
    assert scores == {key: row[key] for key in scores}
    lines = (done.folder / "history.jsonl").read_text().splitlines()
    assert result.history == [json.loads(line) for line in lines]


@pytest.mark.slow
def test_fewer_samples_and_no_images_in_the_report(base, capsys):
    ran([*base, "--eval-samples", "7", "--no-images", "--max-steps", "1"])
    row = row_of("OUT")
    assert (row["n_test"], row["n_retain"], row["eval_samples"]) == (7, 7, 7)
    assert "thumbnail" in Path("OUT/evidence.json").read_text()
    for name in ("OUT/evidence.json", "OUT/report.html"):
        images = json.loads(Path("OUT/evidence.json").read_text())["forget"]
        assert all(image["thumbnail"] is None for image in images), name


@pytest.mark.slow
def test_without_data_only_the_forget_set_is_scored(base, place, capsys):
    names = Path("names.txt")
    names.write_text("\n".join(sorted(CLASSES)))
    words = with_options(base, data="", forget=str(place / "data" / "test"))
    ran([*words, "--classes", str(names), "--max-steps", "1"])
    row = row_of("OUT")
    assert row["acc_test"] is None
    assert row["acc_retain_before"] is None
    assert row["n_test"] == 0
    assert row["k"] == 20
    assert "not measured" in capsys.readouterr().out


@pytest.mark.slow
def test_images_that_were_never_recognised_stop_the_run_before_its_steps(base, place, capsys):
    turned = Path("turned.txt")
    turned.write_text("\n".join([*sorted(CLASSES)[1:], sorted(CLASSES)[0]]))
    alone = with_options(base, data="", forget=str(place / "data" / "test"))
    words = [*alone, "--classes", str(turned)]
    refused(words, r"recognises only \d of the 20 images.*order of the classes.*--force", capsys)
    assert cli.main([*words, "--force", "--max-steps", "1"]) == INCOMPLETE
    row, shown = row_of("OUT"), capsys.readouterr().out
    assert row["n_never_recognised"] > 10
    assert re.search(r"never recognised +\d\d of 20, so there was little to forget", shown)
    assert "never recognised" in Path("OUT/report.html").read_text()


@pytest.mark.slow
def test_the_exit_code_says_that_not_all_was_forgotten(base, no_page, capsys):
    words = [*base, "--method", "neggrad", "--max-steps", "1"]
    words = with_options(words, **OURS, lr="1e-9")
    assert cli.main(words) == INCOMPLETE
    assert row_of("OUT")["n_recognised"] == 6


# methods, options, files of options


#: Options without which a method takes longer than all others together.
PROBES = ["--probes-per-image", "1", "--pgd-iterations", "2"]
SHORT = {
    "lcodec": ["--perturbations", "20"], "unsir": ["--noise-images", "8"], "l2ul": PROBES,
    "adv": PROBES, "amun": ["--pgd-iterations", "2"], "jit": ["--samples", "2"],
    "negmerge": ["--repeats", "1", "--tune-steps", "2"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_and_its_options(method, base, no_page, capsys):
    known = {item.name for item in fields(METHODS[method])}
    words = with_options(base, **OURS | ({} if "lr" in known else {"lr": ""}))
    words += ["--max-steps", "1"] if "max_steps" in known else []
    words += ["--eval-samples", "8"]
    ran([*words, "--method", method, *SHORT.get(method, [])])
    row = row_of("OUT")
    assert row["method"] == method
    assert row["steps"] == row.get("method_max_steps", 1) == 1
    assert row.get("method_lr", 3e-3) == 3e-3
    assert {name for name in row if name.startswith("method_")} == {
        "method_title", *(f"method_{name}" for name in known)
    }  # fmt: skip
    assert row["needs_retain"] is METHODS[method].needs_retain


@pytest.mark.parametrize("method", [n for n, kind in METHODS.items() if kind.needs_retain])
def test_a_method_in_need_of_retained_data_is_refused_at_once(
    method, base, place, monkeypatch, capsys
):
    monkeypatch.setattr(unlearning, "load", lambda inputs: pytest.fail("it had begun"))
    words = with_options(base, **OURS | {"lr": "", "data": ""})
    words = with_options(words, forget=f"{place}/data/train")
    refused([*words, "--method", method], f"--method {method} needs retained training data", capsys)


@pytest.mark.slow
def test_preset_and_its_changes(base, no_page, capsys):
    extra = shlex.split("--preset paper --max-steps 2 --probes-per-image 2 --importance-probes 2")
    ran([*with_options(base, **OURS | {"probe-batch": "8"}), *extra])
    row = row_of("OUT")
    assert row["method_title"] == "STRUCTGUARD (paper)"
    assert row["method_probe_batch"] == 8
    assert row["method_probes_per_image"] == 2
    assert row["preset"] == "paper"
    assert row["acc_test_projected"] is not None
    assert row["seconds_probes"] > 0
    assert row["seconds_importance"] > 0


@pytest.mark.slow
def test_a_file_of_options_and_the_command_line_over_it(base, place, no_page, capsys):
    Path("options.toml").write_text(
        f'model = "stakes:digits_cnn"\nweights = "{place}/net.th"\ndata = "{place}/data"\n'
        'input-size = 8\nforget = "random:3"\nmethod = "l2ul"\nlr = 0.5\nmax_steps = 1\n'
        "probes-per-image = 2\nmean = [0.1, 0.2, 0.3]\nimages = false\neval_samples = 4\n"
    )
    words = shlex.split("unlearn --config options.toml --out OUT --lr 0.25 --forget random:2")
    ran(words)
    row = row_of("OUT")
    assert (row["method"], row["method_lr"], row["k"]) == ("l2ul", 0.25, 2)
    assert (row["method_max_steps"], row["method_probes_per_image"]) == (1, 2)
    assert row["eval_samples"] == 4
    card = json.loads(Path("OUT/model.json").read_text())
    assert card["mean"] == [0.1, 0.2, 0.3]
    assert cli.main([*words, "--method", "neggrad", "--overwrite"]) == 2
    assert "unknown option probes-per-image" in capsys.readouterr().err


@pytest.mark.slow
def test_a_preset_in_a_file(base, no_page, capsys):
    text = 'preset = "paper"\nprobes_per_image = 2\nweighting = "share"\nreg_weight = 0\n'
    text += "importance_probes = 2\npgd_iterations = 2\n"
    Path("o.toml").write_text(text)
    words = [
        *with_options(base, **OURS | {"probe-batch": "8"}),
        "--config",
        "o.toml",
        "--max-steps",
        "1",
    ]
    ran(words)
    row = row_of("OUT")
    assert (row["preset"], row["method_weighting"]) == ("paper", "share")
    ran([*words, "--weighting", "sum", "--overwrite"])
    assert row_of("OUT")["method_weighting"] == "sum"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--feature-weigh 20", r"option --feature-weigh; did you mean --feature-weight\?"),
        ("--no-pull-backs", "unknown option --no-pull-backs; did you mean --no-pull-back"),
        ("--max-steps foo", "--max-steps foo: give a whole number from 1"),
        ("--temperature -1", "temperature=-1.0: give a number above 0"),
        ("--temperature nan", "temperature=nan"),
        ("--deletion-loss foo", "--deletion-loss foo: give one of hinge, ce"),
        ("--method structgard", "method 'structgard' is unknown; did you mean structguard"),
        ("--preset papr", "preset 'papr' is unknown; structguard has paper, reference"),
        ("--method neggrad --preset paper", "preset 'paper' is unknown; neggrad has none"),
        ("--mean .5", "--mean needs 3 values after it"),
        ("--std 0 1 1", "std is .*; it divides, so it must be above 0"),
        ("--seed -1", "--seed -1: give a whole number from 0"),
        ("--eval-samples 0", "--eval-samples 0: score at least 1 image"),
        ("--max-memory 0.000001", "6 forget images of 8x8 need .* MiB, the budget is"),
        ("--max-memory -1", "--max-memory -1.0: give a number of GiB above 0"),
        ("--device foo", "--device foo: there is no such device; give cpu, cuda, cuda:1, mps, xpu"),
        ("--anchors digits", "no anchor for blue, .*: these anchors are for the 10 classes 0, 1"),
        ("--anchors nowhere", "there are no anchors nowhere: give digits"),
        ("--config none.toml", "--config none.toml: no such file"),
        ("stray", "stray belongs to no option"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(extra, message, base, capsys):
    refused([*base, *extra.split()], message, capsys)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--eval-samples -1", "--eval-samples -1: score at least 1 image"),
        ("--max-memory 0", "--max-memory 0.0: give a number of GiB above 0"),
        ("--metric own.py:other", "--metric own.py:other: no function other in own.py"),
    ],
)
def test_wrong_options_are_told_before_anything_is_loaded(
    extra, message, base, capsys, monkeypatch
):
    Path("own.py").write_text("def mine(classifier, given): return 1")
    monkeypatch.setattr("stakes.cli.unlearn.load", lambda inputs: pytest.fail("it loads"))
    refused([*base, *extra.split(), "--dry-run"], message, capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lrr = 1", r"--config o\.toml: unknown option lrr; did you mean lr\?"),
        ("[unlearn]\nlr = 1", "unknown option unlearn"),
        ("lr = ", r"--config o\.toml is not TOML"),
        ("margin = 'x'", r"margin = x in o\.toml: give a number from 0"),
        ("deletion_loss = 'foo'", r"deletion_loss = foo in o\.toml: give one of hinge, ce"),
        ("mean = [1, 2]", "--mean: Incorrect number of arguments: expected 3 but got 2"),
        ("method = 'structgard'", "method 'structgard' is unknown; did you mean structguard"),
        ("config = 'p.toml'", "unknown option config"),
    ],
)
def test_wrong_files_of_options_are_one_line(text, message, base, capsys):
    Path("o.toml").write_text(text)
    refused([*base, "--config", "o.toml"], message, capsys)


# bad input


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def some_nan(place: Path) -> str:
    content = torch.load(place / "net.th", weights_only=True)
    content["state_dict"]["module.head.bias"][1] = float("nan")
    torch.save(content, "nan.th")
    return "nan.th"


def other_keys(place: Path) -> str:
    content = torch.load(place / "net.th", weights_only=True)["state_dict"]
    content["module.extra"] = content.pop("module.head.bias")
    torch.save(content, "other.th")
    return "other.th"


def evil(place: Path) -> str:
    Path("evil.th").write_bytes(pickle.dumps({"state_dict": Evil()}))
    return "evil.th"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (some_nan, r"nan\.th holds NaN or infinite values in head\.bias"),
        (other_keys, r"1 keys missing \(head\.bias\); 1 keys unexpected \(extra\)"),
        (evil, r"evil\.th was refused, and nothing in it was run: .*pathlib.*touch"),
        (lambda place: "none.th", "none.th: no such file"),
    ],
)
def test_bad_weights(make, message, base, place, capsys):
    words = with_options(base, weights=make(place))
    refused(words, message, capsys)
    assert not Path("ran").exists()


def test_weights_for_another_number_of_classes(base, place, capsys):
    write_images(Path("few"), *blobs(4, 0), ("a", "b", "c", "c"))
    refused(with_options(base, data="few"), "has 4 classes, not 3", capsys)


@pytest.mark.slow
def test_bad_folders_and_images(base, place, capsys):
    refused(
        with_options(base, data="none"), "none: no such folder, and no data set of that", capsys
    )
    Path("empty").mkdir()
    refused(with_options(base, data="empty"), "empty: no class folders", capsys)
    refused(with_options(base, forget="empty"), "empty: no images to forget", capsys)
    refused(with_options(base, forget="none"), "--forget none: no such folder", capsys)
    refused(with_options(base, forget="random:0"), "0 random images: .*can give 1 to 40", capsys)
    refused(with_options(base, forget="random:41"), "41 random .*can give 1 to 40", capsys)
    refused(with_options(base, forget="random:x"), "expected a number, such as random:64", capsys)
    write_images(Path("f"), *blobs(2, 0), ["red", "purple", "blue", "grey"])
    refused(with_options(base, forget="f"), "'purple' is not one of the 4 classes", capsys)
    Path("table.csv").write_text("path,label\nf/red/0.png,7\n")
    refused(with_options(base, forget="table.csv"), "label 7 is not a class name", capsys)
    Path("table.csv").write_text("path,label\nf/red/0.png,red\nf/red/0.png,grey\n")
    refused(with_options(base, forget="table.csv"), "same image with the labels", capsys)
    whole = Path("f/red/0.png").read_bytes()
    for content in (whole[: len(whole) * 2 // 3], b"no image"):
        Path("f/red/0.png").write_bytes(content)
        Path("table.csv").write_text("path,label\nf/red/0.png,red\n")
        refused(
            with_options(base, forget="table.csv"),
            r"f/red/0\.png: (cannot be read|no image)",
            capsys,
        )


def test_a_damaged_test_image_is_found_before_any_work(base, place, capsys, monkeypatch):
    write_images(Path("data/train"), *blobs(8, 0), CLASSES)
    write_images(Path("data/test"), *blobs(8, 1), CLASSES)
    path = Path("data/test/red/4.png")
    path.write_bytes(path.read_bytes()[:-40])
    monkeypatch.setattr(StructGuard, "__call__", lambda *a, **k: pytest.fail("work began"))
    refused(with_options(base, data="data"), r"test/red/4\.png: cannot be read as an image", capsys)


def test_the_classes_must_be_known(base, capsys):
    words = with_options(base, data="", forget="f")
    refused(words, "the classes are not known: add --data, --classes FILE .*or --anchors", capsys)
    Path("names").write_text("one\none\n")
    refused([*words, "--classes", "names"], "one appears more than once", capsys)
    Path("names").write_text("one\n")
    refused([*words, "--classes", "names"], "expected two or more names, one per line", capsys)
    refused([*words, "--classes", "none"], "--classes none: no such file", capsys)


@pytest.mark.slow
def test_full_output_folders(base, no_page, capsys):
    ran([*base, "--max-steps", "1"])
    before = row_of("OUT")
    capsys.readouterr()
    refused(base, "--out OUT is not empty: give another folder, or add --overwrite", capsys)
    Path("OUT/mine.txt").touch()
    refused([*base, "--overwrite"], r"--out OUT holds mine\.txt, which is not part", capsys)
    Path("OUT/mine.txt").unlink()
    ran([*base, "--overwrite", "--max-steps", "2"])
    assert row_of("OUT")["steps"] == 2 != before["steps"]
    assert {path.name for path in Path("OUT").iterdir()} == FILES
    assert [path.name for path in Path.cwd().iterdir()] == ["OUT"]
    Path("model").mkdir()
    Path("model/model.safetensors").touch()
    capsys.readouterr()
    words = [*with_options(base, out="model"), "--overwrite"]
    refused(words, r"--out model holds model\.safetensors, which is not part", capsys)
    Path("file").touch()
    refused(with_options(base, out="file"), "--out file is a file", capsys)
    refused(with_options(base, out="file/OUT"), "nothing can be written in", capsys)


def test_what_the_machine_refuses_is_one_line(base, capsys, monkeypatch):
    for error, message in (
        (MemoryError(), "out of memory: a smaller --micro-batch needs less"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "out of memory: CUDA out of mem"),
        (OSError(28, "No space left on device", "OUT/x"), "cannot continue: .*No space.*OUT/x"),
    ):  # fmt: skip

        def fail(*arguments, error=error, **options):
            raise error

        monkeypatch.setattr(unlearning, "record", fail)
        refused(base, message, capsys, code=1)
    monkeypatch.setattr(unlearning, "resumable", lambda out: True)
    refused(base, "No space.*; run the same command again to resume", capsys, code=1)


def test_a_fault_of_ours_keeps_its_traceback_and_says_where_to_report_it(base, monkeypatch):
    monkeypatch.setattr(unlearning, "record", None)
    with pytest.raises(TypeError, match="not callable") as caught:
        cli.main(base)
    trace = "".join(traceback.format_exception(caught.value))
    assert "Traceback" in trace
    assert re.search(
        r"bug in stakes 0\.1\.0, not a problem with your input\. Please report it.* to \w", trace
    )


def test_a_fault_of_the_users_code_is_one_line(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def make():\n    return {}['net']\n")
    words = ["unlearn", "--model", "mine.py:make", "--data", f"{place}/data"]
    refused([*words, "--forget", "random:3", "--out", "OUT"], "mine.py", capsys)


def test_without_arguments_and_unknown_commands(capsys):
    assert cli.main([]) == 0
    assert "unlearn" in capsys.readouterr().out
    assert cli.main(["unlern"]) == 2
    assert "there is no command unlern; did you mean unlearn?" in capsys.readouterr().err
    assert cli.main(["unlearn"]) == 2
    assert "unlearn needs --model, --forget and --out" in capsys.readouterr().err
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_names_every_option_of_the_method(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(["unlearn", "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= int(columns)
    for name in ("--no-images", "--eval-samples", "train/CLASS", "--help-method NAME"):
        assert name in text
    titles = ("What to forget", "Network", "Preprocessing", "Evidence", "Output", "Machine")
    assert sorted(titles, key=lambda title: text.index(f"─ {title}")) == list(titles)
    assert "Parameters" not in text  # every option is in one of these
    assert "--empty" not in text
    assert "--feature-weight" not in text
    assert text.index("Example:") < text.index("--forget images_to_delete/")


@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_method_names_every_hyper_parameter(columns, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.chdir(tmp_path)
    for words in (["salun"], ["structguard"], ["structguard", "--preset", "paper"]):
        assert cli.main(["unlearn", "--help-method", *words]) == 0
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= int(columns)
        for item in fields(method_class(words[0], words[-1] if words[2:] else None)):
            assert f"--{item.name.replace('_', '-')} " in text
    refused(["unlearn", "--help-method", "slaun"], "did you mean salun", capsys)
    refused(["unlearn", "--help-method"], "choose one of structguard", capsys)


def test_the_shell_completes_options_of_methods_too(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    assert cli.main(["--install-completion"]) == 0
    (script,) = tmp_path.rglob("completions/*")
    text = script.read_text()
    assert all(option in text for option in ("--forget", "--feature-weight", "--dry-run"))
    assert "--command-line" not in text


# interruptions, terminals


def lasting(base: list[str]) -> list[str]:
    return [*with_options(base, lr="1e-12"), "--max-steps", "1000000", "--batch-norm", "eval"]


@pytest.mark.slow
def test_a_polite_end_leaves_nothing(base, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    process = forked(lambda: cli.main(lasting(base)), folder)
    wait_until(lambda: process.err.exists() and "\nunlearning" in process.err.read_text())
    os.kill(process.number, signal.SIGTERM)  # Ctrl-C comes on a terminal: see below
    assert process.wait() == 128 + signal.SIGTERM
    lines = process.err.read_text().splitlines()
    assert lines[-1] == "stakes: interrupted; nothing is half written"
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_an_interruption_while_writing_leaves_the_earlier_run(base, no_page, monkeypatch, capsys):
    ran([*base, "--max-steps", "1"])
    before = {path.name: path.read_bytes() for path in Path("OUT").iterdir()}

    def stop(*arguments, **options):
        assert len(list(Path.cwd().iterdir())) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr("stakes.report.page.write_report", stop)
    assert cli.main([*base, "--max-steps", "2", "--overwrite"]) == 130
    assert capsys.readouterr().err.endswith("stakes: interrupted; nothing is half written\n")
    assert [path.name for path in Path.cwd().iterdir()] == ["OUT"]
    assert {path.name: path.read_bytes() for path in Path("OUT").iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_the_same_command_goes_on_where_it_was_stopped(
    name, base, no_page, tmp_path, monkeypatch, capsys
):
    def stopped_at_five() -> int:
        checkpoint.EVERY, save = 0.0, checkpoint.Checkpoint.save

        def stop(self, step, history):
            save(self, step, history)
            if step == 5:
                os.kill(os.getpid(), getattr(signal, name))

        checkpoint.Checkpoint.save = stop
        return cli.main(words)

    words = [*with_options(base, lr="1e-5"), "--max-steps", "12", "--eval-samples", "8"]
    Path("here").mkdir()
    stopped = forked(stopped_at_five, tmp_path / "here")
    code = stopped.wait()
    if name == "SIGKILL":
        assert code == -signal.SIGKILL
    else:
        assert code == 128 + signal.SIGTERM
        assert stopped.err.read_text().endswith("; run the same command again to resume\n")
    monkeypatch.chdir("here")
    assert [path.name for path in Path().iterdir()] == [".OUT.unfinished"]
    ran(words)
    assert "interrupted run: 5/12, going on after step 5\n" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["OUT"]
    ran(with_options(words, out="WHOLE"))
    assert "interrupted run" not in capsys.readouterr().err
    assert row_of("OUT")["unlearned_digest"] == row_of("WHOLE")["unlearned_digest"]
    for file in ("history.jsonl", "evidence.json", "model.safetensors"):
        assert Path("OUT", file).read_bytes() == Path("WHOLE", file).read_bytes()
    assert cli.main(words) == 2  # what is finished is not replaced
    assert "--out OUT is not empty" in capsys.readouterr().err


@pytest.mark.slow
def test_bars_on_a_terminal(base, tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    out = tmp_path.with_name("said")

    def begin() -> int:
        os.close(ours)
        with out.open("w") as sys.stdout, os.fdopen(theirs, "w", buffering=1) as sys.stderr:
            return cli.main(lasting(base))

    process = forked(begin, tmp_path)
    os.close(theirs)
    text, until = "", time.monotonic() + 120
    while not re.search(r"unlearning.*━.*\d+/1000000, \d+ % still recognised", text):
        assert time.monotonic() < until, text[-500:]
        text += os.read(ours, 65536).decode(errors="replace")
    os.kill(process.number, signal.SIGINT)
    try:
        while chunk := os.read(ours, 65536):
            text += chunk.decode(errors="replace")
    except OSError:  # this is how a terminal ends
        pass
    os.close(ours)
    assert process.wait() == 130
    assert out.read_text() == ""
    assert text.endswith("stakes: interrupted; nothing is half written\r\n")
    assert "\x1b[?25h" in text  # the cursor is back
    assert list(tmp_path.iterdir()) == []
