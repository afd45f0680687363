"""What the documentation says: its Python runs, its commands exist, its files are read."""

import json
import os
import pkgutil
import re
import shlex
import shutil
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

import stakes
from command_line import afresh, forked
from stakes import Classifier, ForgetSet, demo, load_data, rows
from stakes.anchors import encoders
from stakes.anchors.descriptions import read_descriptions
from stakes.cli.commands import main, make_app
from stakes.data import datasets
from stakes.evaluation.scores import depth
from stakes.methods import probing
from stakes.models.transforms import own_transform
from stakes.rows import INCOMPLETE
from stakes.runs.recipe import read_recipe
from stakes.runs.recipe_file import find_recipe

pytestmark = pytest.mark.usefixtures("undrawn", "unattacked")

ROOT = Path(__file__).parents[1]
PAGES = {page.stem: page for page in sorted((ROOT / "docs").glob("*.md"))}
EXECUTED = {
    "forget-images", "read-the-report", "add-a-method", "python", "tour", "preprocessing", "extend",
}  # fmt: skip


def blocks(page: str, language: str) -> list[str]:
    text = PAGES[page].read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(page: str) -> list[str]:
    return [
        line.strip()
        for block in blocks(page, "sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line and not line.startswith("#")
    ]


@pytest.mark.parametrize(
    ("page", "line"), [(page, line) for page in PAGES for line in commands(page)]
)
def test_every_command_is_one_that_can_be_given(page, line):
    program, *tokens = shlex.split(line)
    if program == "make":
        assert re.search(rf"^{tokens[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif page == "add-a-method" and "mine.toml" not in tokens:
        pass  # its method is not there yet: the example below runs these
    else:
        assert program == "stakes"
        command, _, _ = make_app(tokens).parse_args(tokens, print_error=False, exit_on_error=False)
        assert callable(command)


@pytest.mark.parametrize("page", ["README", "CONTRIBUTING", *PAGES])
def test_what_a_page_links_to_or_shows_is_in_the_repository(page):
    path = PAGES.get(page, ROOT / f"{page}.md")
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([\w./-]+(?:#[\w-]+)?)\)", text)}
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_what_docstrings_refer_to_exists():
    source = Path(stakes.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in source.rglob("*.py")]
    names = {name for text in texts for name in re.findall(r":\w+:`~?(stakes\.[\w.]+)`", text)}
    assert len(names) > 50
    missing = []
    for name in sorted(names):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            missing.append(name)
    assert not missing


def test_no_python_goes_unexecuted():
    assert {page for page in PAGES if blocks(page, "python")} == EXECUTED


def test_descriptions_written_by_hand_are_read(tmp_path):
    (example,) = blocks("anchors", "json")
    (tmp_path / "own.json").write_text(example)
    assert list(read_descriptions(tmp_path / "own.json")) == ["robin", "magpie"]


def test_the_recipe_of_ones_own_has_a_cell_for_each_method_k_and_seed(tmp_path):
    (example,) = blocks("compare-methods", "toml")
    (tmp_path / "mine.toml").write_text(example)
    recipe = read_recipe(tmp_path / "mine.toml", {"data": "images/"})
    assert len(recipe.cells) == 3 * 2 * 3
    assert {cell.options["data"] for cell in recipe.cells} == {"images/"}
    assert {cell.options.get("preset") for cell in recipe.cells} == {None, "paper"}


def test_recipes_come_with_the_package_and_ask_for_what_the_commands_give():
    lines = [shlex.split(line) for page in PAGES for line in commands(page)]
    benches = [line[2:] for line in lines if line[1] == "bench"]
    given = [line for line in benches if line[0] != "mine.toml" and not line[0].startswith("--")]
    assert len(given) > 3
    for page in PAGES.values():
        for name in re.findall(r"`stakes bench (\w[\w-]*)`", page.read_text()):
            assert find_recipe(name).is_file()
    for name, *options in given:
        pairs = [b for a, b in pairwise(options) if a == "--set"]
        assert read_recipe(name, dict(pair.split("=") for pair in pairs)).cells


# preprocessing.md


def test_a_service_is_named_and_its_reading_handed_on(tmp_path, monkeypatch):
    service, python = blocks("preprocessing", "python")
    monkeypatch.chdir(tmp_path)
    Path("service.py").write_text(service)
    read = own_transform("service.py:prepare")
    assert (read.size, read.mean, read.std) == ((64, 64), (0.5,) * 3, (0.25,) * 3)
    for name in ("robin", "magpie"):
        Path("DATA", name).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (90 + i, 70), 50 * i).save(Path("DATA", name, f"{i}.png"))
    names = {}
    exec(python.replace('"mine.safetensors"', '"random"'), names)
    assert names["forget"].images.shape == (2, 3, 64, 64)
    assert names["network"].mean.flatten()[0] == pytest.approx(0.485)


# forget-images.md


@pytest.mark.slow
def test_the_price_of_the_criteria_is_told(few_digits, monkeypatch, capsys):
    (code,) = (block for block in blocks("forget-images", "python") if "criterion" in block)
    monkeypatch.setattr(demo, "EPOCHS", 8)
    asked = "StructGuard(criterion=criterion)"
    assert code.count(asked) == 1
    monkeypatch.setattr(probing, "INVERTED", 8)
    monkeypatch.setattr(probing, "INVERSION_STEPS", 2)
    few = "max_steps=2, probe_batch=8"
    quick = code.replace(asked, f"StructGuard(criterion=criterion, {few})")
    names: dict[str, object] = {}
    exec(quick, names)
    out = capsys.readouterr().out
    for criterion in ("exact", "views"):
        assert re.search(rf"^{criterion}: \d+ s, 2 steps$", out, re.MULTILINE)
    shown = re.findall(r"(\w+): ([\d.]+) % -> ([\d.]+) %", out)
    assert [key for key, _, _ in shown] == 2 * ["acc_forget", "forget_views", "acc_test"]
    row = names["row"]
    assert shown[-1][1:] == (f"{row['acc_test_before']:.1f}", f"{row['acc_test']:.1f}")
    assert row["acc_test_before"] > 20  # a trained network: chance is 10


def source_of(library: str) -> str:
    if library != "transformers":
        return f"{library}:resnet18"
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=8, num_labels=2,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained("vit")
    return "hf:vit"


@pytest.mark.slow
@pytest.mark.parametrize("library", ["timm", "torchvision", "transformers"])
def test_what_was_saved_is_deployed_and_checked_without_stakes(library, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = None if library == "transformers" else "random"
    saved = Classifier.load(source_of(library), weights=weights, class_names=("robin", "magpie"))
    saved.save("OUT")
    side = saved.input_size
    shown = torch.randint(
        0, 256, (3, side, side, 3), generator=torch.Generator().manual_seed(0)
    ).byte()
    for name in saved.class_names:
        folder = Path("images_to_delete") / name
        folder.mkdir(parents=True)
        for i, pixels in enumerate(shown):
            Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    (deploy,) = (
        block
        for block in blocks("forget-images", "python")
        if f"import {library}" in block or f"from {library} import" in block
    )
    (check,) = (block for block in blocks("forget-images", "python") if "prepare" in block)
    names: dict[str, object] = {}
    exec(deploy + check, names)
    images = shown.permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        logits = saved(images)
        answers = logits.argmax(1).tolist()
        again = names["network"](torch.stack([names["prepare"](Image.fromarray(p.numpy()))
                                              for p in shown]))  # fmt: skip
    torch.testing.assert_close(getattr(again, "logits", again), logits, rtol=1e-3, atol=1e-4)
    expected = {Path("images_to_delete", saved.class_names[a], f"{i}.png")
                for i, a in enumerate(answers)}  # fmt: skip
    assert set(names["known"]) == expected


# read-the-report.md


def test_digests_are_checked_without_stakes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved = Classifier.load("stakes:digits_cnn", weights="random", num_classes=2)
    saved.save("OUT")
    Path("OUT/row.json").write_text(json.dumps({"unlearned_digest": saved.digest()}))
    for i in range(2):
        Path(f"images_to_delete/{i}").mkdir(parents=True)
        Image.effect_noise((16, 16), 99 + i).convert("RGB").save(f"images_to_delete/{i}/a.png")
    given = ForgetSet.from_folder("images_to_delete", ("0", "1"), size=16)
    requests = [{"pixels": given.pixel_digests()[:1]}]
    Path("OUT/forgotten.json").write_text(json.dumps({"requests": requests}))
    (check,) = blocks("read-the-report", "python")
    exec(check, {})
    network, first, second = capsys.readouterr().out.splitlines()
    assert network == "the report's network: True"
    assert first.endswith("0/a.png: True")
    assert second.endswith("1/a.png: False")


# python.md, tour.md, architecture.md


def test_the_python_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec("".join(blocks("python", "python")), names)
    assert len(names["forget"]) == 2
    assert names["network"].digest() != names["result"].classifier.digest()
    assert capsys.readouterr().out.split()[-1] == str(names["row"]["confidence"])
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        wanted = names["result"].classifier(images)
        torch.testing.assert_close(names["deployed"]((images - 0.5) / 0.25), wanted)


@pytest.mark.slow
def test_the_tour_runs_from_top_to_bottom(few_digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "EPOCHS", 1)
    code = "".join(blocks("tour", "python"))
    quick = code.replace("StructGuard()", "StructGuard(max_steps=1, probe_batch=8)")
    assert quick != code
    exec(quick, {})
    assert Classifier.load("network").num_classes == 10
    assert re.search(r"recognised: \d+ %, test accuracy: [\d.]+ %", capsys.readouterr().out)


def test_every_room_is_on_the_picture_of_the_architecture():
    from test_architecture import FLOORS

    text = PAGES["architecture"].read_text(encoding="utf-8")
    places = [
        [int(re.search(rf' y="(\d+)"[^>]*>{name}</text>', text)[1]) for name in floor]
        for floor in FLOORS
        if floor != ["__main__"]
    ]
    assert all(len(set(floor)) == 1 for floor in places)  # one floor, one height
    assert places == sorted(places)


# extend.md


@pytest.mark.slow
def test_parts_of_ones_own_work_as_the_page_adds_them(tmp_path, monkeypatch, capsys):
    measure, data, _, encoder, *_ = blocks("extend", "python")
    entries = [line.strip().rstrip(",") for line in blocks("extend", "python")[2::2]]
    monkeypatch.chdir(tmp_path)
    added = {}
    for module, code, entry in ((datasets, data, entries[0]), (encoders, encoder, entries[1])):
        names = {**vars(module)}
        exec(code, names)
        added |= eval("{" + entry + "}", names)
    monkeypatch.setitem(datasets.DATASETS, "checkers", added["checkers"])
    monkeypatch.setitem(encoders.ENCODERS, "letters", added["letters"])
    assert len(load_data("checkers").train) == 150
    Path("mine.py").write_text(measure)
    Path("own.json").write_text(blocks("anchors", "json")[0])
    run, anchors = (line for line in commands("extend") if line.startswith("stakes"))
    assert main(shlex.split(anchors)[1:]) == 0
    quick = run.replace("--data digits", "--data checkers") + " --method neggrad --max-steps 1"
    assert main(shlex.split(quick)[1:]) in (0, INCOMPLETE)
    row = json.loads(Path("OUT/row.json").read_text())
    assert row["confidence"] > 0
    assert row["n_test"] == 50


def test_a_measure_of_every_run_is_an_entry_and_a_line():
    entry, line = blocks("extend", "python")[-2:]
    ((key, metric),) = eval("{" + entry + "}", {**vars(rows)}).items()
    assert metric.heading
    assert metric.latex  # which the tables of a benchmark need
    assert {"bench", "runs"} < {*metric.printed}
    own = depth(torch.tensor([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0]]), torch.tensor([0, 1]))
    assert eval("{" + line + "}", {"own": own, "suffix": "_before"}) == {f"{key}_before": 2.0}


# add-a-method.md


def after(text: str, line: str, more: str) -> str:
    """The text with more after a line that it has once."""
    assert text.count(f"{line}\n") == 1
    return text.replace(f"{line}\n", f"{line}\n{more}")


def followed(lines: list[str], package: Path) -> int:
    """Run the commands with another copy of the package, in a process that may be spoilt."""
    afresh(package)
    os.environ["COLUMNS"] = "100"
    sys.stdout = sys.stderr
    from stakes.cli.commands import main

    assert package in Path(sys.modules["stakes"].__file__).parents
    for line in lines:
        program, *words = shlex.split(line)
        code = main(words) if program == "stakes" else pytest.main(words[2:])
        print(f"{line}: exit code {int(code)}")
    return 0


@pytest.mark.slow
def test_following_the_page_step_by_step_adds_a_method(tmp_path):
    shutil.copytree(Path(stakes.__file__).parent, tmp_path / "src/stakes")
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "test_methods.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests")
    file, imported, entry, variant, loss = blocks("add-a-method", "python")
    (path,) = re.findall(r"^`(src/\S+)`:$", PAGES["add-a-method"].read_text(), re.MULTILINE)
    for place in (path, "mypackage/methods.py"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(file)
    losses = tmp_path / "src/stakes/training/losses.py"
    dictionary = "RETENTION: dict[str, Callable[[Tensor, Answers], Tensor]] = {"
    losses.write_text(after(losses.read_text(), dictionary, loss))
    registry = tmp_path / "src/stakes/methods/__init__.py"
    table = tmp_path / "tests/test_methods.py"
    text = after(registry.read_text(), "METHODS: dict[str, type[Method]] = {", entry)
    registry.write_text(after(text, "from stakes.methods.unsir import UNSIR", imported))
    table.write_text(after(table.read_text(), "VARIANTS = {", variant))
    lines = [line for line in commands("add-a-method") if "mine.toml" not in line]
    process = forked(partial(followed, lines, tmp_path / "src"), tmp_path)
    code, out = process.wait(), process.err.read_text()
    assert code == 0, out
    for line in lines:
        # the network of the example is untrained, so that it has little to forget
        assert re.search(
            rf"{re.escape(line)}: exit code {'[03]' if '--weights random' in line else 0}", out
        )
    assert "Hyper-parameters of Unlikelihood" in out
    assert re.search(r"mse,\s+kl,\s+ce", out)  # the choices of --retention-loss
    assert "(chosen" in out  # the source of its one field of its own, wrapped
    passed = re.search(r"\b(\d+) passed", out)
    assert passed, out
    assert int(passed[1]) >= 7
    page = (tmp_path / "OUT/report.html").read_text()
    assert "Unlikelihood" in page
    assert "unlikelihood" in (tmp_path / "OUT/history.jsonl").read_text()
