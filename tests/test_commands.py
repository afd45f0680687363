"""The other commands, and networks of other libraries, through the command line."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from command_line import COMMAND, noise, ran, refused, row_of, with_options, write_images
from conftest import CLASSES, blobs, once
from stakes import Anchors, Classifier, load_data
from stakes.cli import commands as cli
from stakes.evaluation import accuracy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

OWN = """
from pathlib import Path
from torch import nn
Path({mark!r}).touch()
input_size, mean = 8, 0.4
def net(num_classes=4):
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, num_classes))
"""

SERVICE = """
from torchvision.transforms import Compose, Normalize, Resize, ToTensor
def prepare():
    return Compose([Resize((8, 8)), ToTensor(), Normalize(.25, .5)])
def gamma():
    return Compose([Resize((8, 8)), ToTensor(), lambda x: x ** 2, Normalize(.25, .5)])
"""


@pytest.fixture(scope="session")
def place(place, tmp_path_factory) -> Path:
    """Also two runs: one the usual way, one deployed with projector."""

    def run_twice(folder: Path) -> None:
        shutil.copytree(place, folder, dirs_exist_ok=True)
        projected = "--preset paper --deploy projected --probes-per-image 2 --importance-probes 2"
        for extra in ("--out OUT --lr 3e-3", f"{projected} --out PROJECTED"):
            words = f"unlearn {source(folder)} {extra} --probe-batch 16 --max-steps 3"
            with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
                patch.setattr("stakes.report.page.write_report", lambda folders, out: out.touch())
                ran(shlex.split(f"{words} --eval-samples 9"))

    return once(tmp_path_factory, "delivered", run_twice)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def source(place: Path) -> str:
    return (
        f"--model stakes:digits_cnn --input-size 8 --weights {place}/net.th --data {place}/data "
        "--forget random:6"
    )


# evaluate


@pytest.mark.parametrize("name", ["OUT", "PROJECTED"])
def test_a_delivered_run_scored_again_has_the_numbers_of_its_row(name, place, capsys):
    words = f"evaluate {source(place)} --unlearned {place}/{name} --eval-samples 9 --out row.json"
    assert cli.main(shlex.split(words)) == 0
    out, err = capsys.readouterr()
    again = json.loads(out)
    assert json.loads(Path("row.json").read_text()) == again
    assert "scoring test: 9/9" in err
    row = row_of(place / name)
    assert again.pop("unlearned") == f"{place}/{name}"
    assert again.pop("date") >= row["date"]
    assert again == {key: row[key] for key in again}
    assert (again["dataset"], again["eval_samples"]) == (f"{place}/data", 9)
    assert ("acc_test_direct" in again) == (name == "PROJECTED")
    assert again["n_test"] == 9
    refused(shlex.split(words), "--out row.json exists: give another file, or add --over", capsys)
    assert cli.main([*shlex.split(words), "--overwrite"]) == 0


def test_an_interrupted_evaluation_resumes(place, capsys, monkeypatch):
    """Interrupted by the retained images: those of the test set pass no network again."""
    words = shlex.split(f"evaluate {source(place)} --unlearned {place}/OUT --eval-samples 9")
    assert cli.main(words) == 0
    whole, plain, passed = json.loads(capsys.readouterr().out), accuracy.score, []

    def score(network, images, labels):
        passed.append(len(images))
        if len(passed) == 3:
            raise KeyboardInterrupt
        return plain(network, images, labels)

    monkeypatch.setattr(accuracy, "score", score)
    assert cli.main([*words, "--out", "row.json"]) == 130
    assert "run the same command again to resume" in capsys.readouterr().err
    assert passed == [9, 9, 9]
    assert cli.main([*words, "--out", "row.json"]) == 0
    assert passed[3:] == [9, 9]  # the retained images, before and after
    assert json.loads(Path("row.json").read_text()) | {"date": whole["date"]} == whole
    assert not [path.name for path in Path().iterdir() if path.name.startswith(".row")]


def test_a_measure_that_fails_ends_an_evaluation_before_anything_is_scored(
    place, capsys, monkeypatch
):
    Path("mine.py").write_text("def broken(classifier, given):\n    return 1 / 0\n")
    monkeypatch.setattr(accuracy, "score", lambda *_: pytest.fail("scored"))
    words = f"evaluate {source(place)} --unlearned {place}/OUT --metric mine.py:broken"
    refused(shlex.split(words), "mine.py:2: ZeroDivisionError", capsys)


def test_no_images_to_score_are_refused_before_anything_is_loaded(place, capsys, monkeypatch):
    monkeypatch.setattr("stakes.cli.evaluate.load_images", lambda *_: pytest.fail("it loads"))
    words = f"evaluate {source(place)} --unlearned {place}/OUT --eval-samples 0"
    refused(shlex.split(words), "--eval-samples 0: score at least 1 image", capsys)


def test_evaluate_refuses_what_does_not_belong_together(place, capsys):
    words = shlex.split(f"evaluate {source(place)} --unlearned none")
    refused(words, "--unlearned none: .*give a folder", capsys)
    write_images(Path("data"), *blobs(8, 0), ("a", "b", "c", "d"))
    words = shlex.split(f"evaluate {source(place)} --unlearned {place}/OUT")
    refused(with_options(words, data="data"), "OUT has other classes than --model stakes:", capsys)


def test_a_delivered_run_is_a_model_for_another_run(place, no_page, capsys):
    words = f"unlearn --model {place}/OUT --data {place}/data --forget random:2 --out O"
    words += " --max-steps 1 --force"
    ran(shlex.split(words))
    row = row_of("O")
    assert row["weights_digest"] == row_of(place / "OUT")["unlearned_digest"]
    assert row["model"] == "stakes:digits_cnn"


def test_own_code_runs_only_where_the_command_names_it(place, no_page, capsys):
    mark = Path("ran").absolute()
    Path("own.py").write_text(OWN.format(mark=str(mark)))
    own = f"--model own.py:net --data {place}/data --forget random:3"
    run = f"unlearn {own} --preset paper --deploy projected --probes-per-image 1 --max-steps 1"
    ran(shlex.split(f"{run} --importance-probes 1 --force --out OUT"))
    mark.unlink()
    capsys.readouterr()
    alone = f"unlearn --model OUT --data {place}/data --forget random:3 --out O"
    refused(shlex.split(alone), r"your own code.*: --model .*own\.py:net --weights OUT/mod", capsys)
    assert not mark.exists()
    words = f"evaluate {own} --unlearned OUT"
    assert cli.main(shlex.split(words)) == 0
    again, row = json.loads(capsys.readouterr().out), row_of("OUT")
    assert (again.pop("unlearned"), len(again.pop("date"))) == ("OUT", len(row["date"]))
    assert again == {key: row[key] for key in again}
    assert cli.main(shlex.split(f"{alone} --weights OUT/model.safetensors --model own.py:net")) == 2
    words = alone.replace("OUT", "own.py:net") + " --weights OUT/model.safetensors --max-steps 1"
    ran([*shlex.split(words), "--force"])
    assert row_of("O")["weights_digest"] == row["unlearned_digest"]
    made_from = "OUT/model.safetensors, made from weights random (seed 0)"
    assert row_of("O")["weights"] == made_from
    assert f"weights {made_from}; " in capsys.readouterr().err


def test_an_auditor_keeps_own_code_elsewhere(place, no_page, capsys):
    mark, text = Path("ran").absolute(), f"{OWN}def other(): return net()\n"
    Path("own.py").write_text(text.format(mark=str(mark)))
    rest = f"--data {place}/data --forget random:3 --eval-samples 9"
    run = f"unlearn --model own.py:net {rest} --method neggrad --max-steps 1 --force"
    ran(shlex.split(f"{run} --out OUT"))
    ran(shlex.split(f"{run} --reference OUT --out O"))
    row = row_of("O")
    assert row["reference_digest"] == row_of("OUT")["unlearned_digest"]
    assert "made from" not in row["weights"]
    assert "note:" not in capsys.readouterr().err
    Path("moved").mkdir()
    for name in ("own.py", "OUT"):
        Path(name).rename(Path("moved", name))
    audit = f"evaluate --model moved/own.py:net {rest} --unlearned moved/OUT --reference moved/OUT"
    assert cli.main(shlex.split(audit)) == 0
    out, err = capsys.readouterr()
    again = json.loads(out)
    assert again["acc_test"] == row_of("moved/OUT")["acc_test"]
    assert again["reference_agreement_test"] == 100
    was, now = (Path(name).absolute() for name in ("own.py", "moved/own.py"))
    assert f"note: moved/OUT was saved from {was}:net; here {now}:net builds it" in err
    mark.unlink()
    words = audit.replace("moved/own.py:net", "stakes:digits_cnn --weights random --input-size 8")
    refused(
        shlex.split(words),
        r"--unlearned moved/OUT was saved .*own\.py:net, which .* names st",
        capsys,
    )
    assert not mark.exists()
    words = audit.replace("own.py:net", "own.py:other")
    assert cli.main(shlex.split(words)) == 2
    assert "own.py:other: give networks of the same code in both" in capsys.readouterr().err


def test_own_code_imports_what_lies_beside_it_and_prints_where_no_row_is(place):
    Path("moved").mkdir()
    Path("moved/layers_x.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def forward(self, x):\n        print('passing')\n        return super().forward(x)\n"
        "def make(num_classes=4):\n    print('making')\n"
        "    return Net(nn.Flatten(), nn.Linear(192, num_classes))\n"
    )
    Path("moved/own2.py").write_text("from layers_x import make\nprint('loading')\n")
    Path("moved/mine.py").write_text(
        "from stakes.methods.neggrad import NegGrad\nprint('choosing')\nclass Mine(NegGrad): pass\n"
    )
    words = f"unlearn --model own2.py:make --input-size 8 --forget {place}/data/test --out OUT"
    words += " --method mine.py:Mine --max-steps 1 --force --json --quiet --no-images"
    (Path("classes.txt")).write_text("\n".join(sorted(CLASSES)))
    words += f" --classes {Path('classes.txt').absolute()}"
    run = subprocess.run(
        [COMMAND, *shlex.split(words)], cwd="moved", capture_output=True, text=True, check=False
    )
    assert run.returncode in (0, 3), run.stderr
    assert json.loads(run.stdout) == row_of("moved/OUT")
    assert {"choosing", "loading", "making", "passing"} <= set(run.stderr.split())


def test_evaluate_notes_another_original_and_other_preprocessing(place, no_page, capsys):
    asked = f"--model stakes:digits_cnn --data {place}/data --forget random:3 --eval-samples 9"
    first, run = f"{asked} --weights {place}/net.th", "--method neggrad --max-steps 1 --force"
    Path("service.py").write_text(SERVICE)
    ran(shlex.split(f"unlearn {first} --transform service.py:prepare {run} --out OUT"))
    capsys.readouterr()
    for name, notes in (("prepare", 0), ("gamma", 1)):
        words = f"evaluate {first} --transform service.py:{name} --unlearned OUT"
        assert cli.main(shlex.split(words)) == 0
        err = capsys.readouterr().err
        assert err.count("note:") == notes
    place_of = f"{Path('service.py').absolute()}:"
    assert f"other preprocessing: {place_of}prepare; here: {place_of}gamma" in err
    words = f"evaluate {asked} --transform service.py:prepare --weights OUT/model.safetensors"
    assert cli.main(shlex.split(f"{words} --unlearned OUT")) == 0
    row, err = row_of("OUT"), capsys.readouterr().err
    was, now = row["weights_digest"][:12], row["unlearned_digest"][:12]
    assert f"OUT was made from other weights (digest {was}, says its row.json)" in err
    assert f"of --model (digest {now})" in err


def test_evaluate_notes_another_normalisation_of_the_original(place, no_page, capsys):
    asked = f"--model stakes:digits_cnn --data {place}/data --forget random:3 --eval-samples 9"
    asked += f" --weights {place}/net.th"
    ran(shlex.split(f"unlearn {asked} --method neggrad --max-steps 1 --force --out OUT"))
    capsys.readouterr()
    for mean, notes in (("0.25 0.5 0.75", 1), ("", 0)):
        words = f"evaluate {asked} --unlearned OUT {mean and '--mean'} {mean}"
        assert cli.main(shlex.split(words)) == 0
        err = capsys.readouterr().err
        assert err.count("note:") == notes
        assert ("and --model by 0.25 0.5 0.75, so before and after do not compare" in err) == notes


# report, anchors


def test_report_of_several_runs(place, capsys):
    words = f"report {place}/OUT {place}/PROJECTED --out page.html --title 'Two & more'"
    assert cli.main(shlex.split(words)) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("page.html\n", "")
    page = Path("page.html").read_text()
    assert "Two &amp; more" in page
    assert "OUT" in page
    assert "PROJECTED" in page
    refused(["report", "--out", "x.html"], "report: name at least one run folder", capsys)
    assert cli.main(["report", "none", "--out", "x.html"]) == 2
    assert capsys.readouterr().err.startswith("stakes: none is not a run folder (no row.json)")
    twice = ["report", f"{place}/OUT", f"{place}/PROJECTED/../OUT", "--out", "x.html"]
    refused(twice, "OUT is given twice; name every run folder once", capsys)


def test_anchors_made_from_descriptions_serve_a_run(place, no_page, tmp_path, capsys):
    encoders = pytest.importorskip("test_encoders")
    encoders.tiny("sbert", tmp_path / "sbert")
    words = ("small red body", "big green tail", "furry round wing", "soft long wheel")
    texts = {name: [text, "on the body"] for name, text in zip(CLASSES, words, strict=True)}
    Path("colours.json").write_text(json.dumps(texts))
    command = "anchors --descriptions colours.json --encoder sbert --encoder-path sbert"
    make = shlex.split(f"{command} --out colours.safetensors")
    assert cli.main(make) == 0
    made = Anchors.load("colours.safetensors")
    digest = made.digest()
    expected = f"4 anchors, 8 wide, digest {digest[:12]}: colours.safetensors\n"
    assert capsys.readouterr().out == expected
    refused(make, "colours.safetensors exists already: .*--overwrite", capsys)
    assert cli.main([*make, "--overwrite"]) == 0
    assert Anchors.load("colours.safetensors").digest() == digest
    words = f"unlearn {source(place)} --anchors colours.safetensors --max-steps 1 --out OUT"
    ran(shlex.split(words))
    row = row_of("OUT")
    assert row["anchors"] == "colours"
    assert row["anchors_digest"] == made.select(sorted(CLASSES)).digest()
    capsys.readouterr()
    refused(with_options(make, encoder="bert"), "there is no encoder bert: choose clip", capsys)


# networks of other libraries, random weights


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, noise(12), torch.arange(12) % 3, ("ant", "bee", "cow"))
    return folder


def unlearn(model: str, image_folder: Path, *extra: str) -> tuple[Classifier, torch.Tensor]:
    words = f"unlearn --model {model} --data {image_folder} --forget random:4 --out OUT"
    words += "" if model.startswith("hf:") else " --weights random"
    words += " --probe-batch 4 --max-steps 2 --max-drift 2"
    ran([*shlex.split(words), *extra, "--force"])
    row = row_of("OUT")
    assert row["steps"] >= 1
    assert row["unlearned_digest"] != row["weights_digest"]
    images = load_data(image_folder).train.load(range(5))
    return Classifier.load("OUT"), images


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("test_resnet", {}), ("test_vit", {"img_size": 32})],
)
def test_timm_networks_reload_in_plain_timm(
    name, arguments, image_folder, no_page, unattacked, capsys
):
    after, images = unlearn(f"timm:{name}", image_folder, "--input-size", "32")
    assert f"timm:{name}, 3 classes, on cpu; weights random (seed 0)" in capsys.readouterr().err
    plain = timm.create_model(name, num_classes=3, **arguments).eval()
    plain.load_state_dict(load_file("OUT/model.safetensors"))
    with torch.no_grad():
        logits = plain((images - after.mean) / after.std)
        torch.testing.assert_close(after(images), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("names", [None, ("cow", "ant", "bee")])
def test_a_transformers_network_reloads_in_plain_transformers(
    names, image_folder, no_page, unattacked, capsys
):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=8, num_labels=3,
    )  # fmt: skip
    if names is not None:
        config.id2label = dict(enumerate(names))
    transformers.ViTForImageClassification(config).save_pretrained("vit")
    after, images = unlearn("hf:vit", image_folder)
    # Their own order of the classes, where the folder names them; else that of the data.
    assert after.class_names == (names or ("ant", "bee", "cow"))
    plain = transformers.AutoModelForImageClassification.from_pretrained("OUT").eval()
    images = torch.nn.functional.interpolate(images, (16, 16), mode="bilinear", antialias=True)
    with torch.no_grad():
        logits = plain((images - after.mean) / after.std).logits
        torch.testing.assert_close(after(images), logits, rtol=1e-3, atol=1e-4)
    assert tuple(plain.config.id2label.values()) == after.class_names


def test_unknown_networks_are_told_with_the_nearest(image_folder, capsys):
    words = f"unlearn --model timm:resnet1 --data {image_folder} --forget random:4 --out OUT"
    words += " --weights random"
    refused(shlex.split(words), "timm has no model 'resnet1'; did you mean resnet18", capsys)
    words = words.replace("timm:resnet1", "hf:none").removesuffix(" --weights random")
    refused(shlex.split(words), "no folder .*none; hf: takes a local folder", capsys)


def test_every_command_has_help(capsys):
    for name, (_, about) in cli.COMMANDS.items():
        assert cli.main([name, "--help"]) == 0
        out, err = capsys.readouterr()
        assert re.match(rf"Usage: stakes {name}", out)
        assert about.replace("`", "") in " ".join(out.split())  # the list of commands says the same
        assert err == ""


def test_scoring_offers_no_anchors_and_takes_them(capsys):
    assert cli.main(["unlearn", "--help"]) == 0
    assert "--anchors" in capsys.readouterr().out
    assert cli.main(["evaluate", "--help"]) == 0
    assert "--anchors" not in capsys.readouterr().out
    words = ["evaluate", "--model", "m", "--forget", "f", "--unlearned", "u", "--anchors", "head"]
    _, bound, _ = cli.make_app(words).parse_args(words, exit_on_error=False, print_error=False)
    assert bound.arguments["inputs"].anchors == "head"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["report", "--help"]])
def test_what_computes_nothing_does_not_wait_for_torch(words):
    program = "import sys; from stakes.cli.commands import main; main(sys.argv[1:])"
    program += "; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_is_no_error(unbuffered, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run(
        [COMMAND, "bench", "quick", "--out", tmp_path / "out", "--dry-run"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        text=True,
        check=False,
    )
    os.close(writer)
    assert (found.returncode, found.stderr) == (141, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_outputs_are_no_error(closed, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "row.json").write_text("{}")
    words = shlex.join([str(COMMAND), "report", "run", "--out", "a.html"])
    found = subprocess.run(
        ["sh", "-c", f"{words} {closed}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0
    assert "Error" not in found.stderr
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")


def test_images_that_are_of_one_grey_as_they_are_read_are_named(place, no_page, capsys):
    deep = torch.full((8, 8), 60_000, dtype=torch.int32).numpy().astype("uint16")
    deep[:, 4:] += 100  # 16 bits, of which the upper 8 are alike
    folder = Path("grey") / CLASSES[0]
    folder.mkdir(parents=True)
    Image.fromarray(deep).save(folder / "deep.png")
    write_images(Path("grey"), *blobs(2, 5), CLASSES)
    words = f"unlearn {source(place)} --method esc --force --out X"
    ran(with_options(shlex.split(words), forget="grey"))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "uniformly grey" in line]
    assert line.startswith(f"note: {CLASSES[0]}/deep.png: uniformly grey")
