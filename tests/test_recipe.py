"""Recipes: what they become, and that a mistake is named before anything runs."""

import json
import re
import shlex
import tomllib

import pytest

from command_line import refused
from stakes.cli import commands as cli
from stakes.cli.cells import check_cells
from stakes.errors import InputError
from stakes.files import write_text
from stakes.report.figures.paper import FIGURES
from stakes.runs.fingerprint import fingerprint
from stakes.runs.recipe import read_recipe
from stakes.runs.recipe_file import PaperRow, shipped_recipes

GOOD = """
title = "Trial"
forget = "random:{k}"
k = [4, 8]
seeds = [0, 1]

[set]
images = "the images"

[common]
data = "{images}"
eval-samples = 100
max_steps = 5

[[network]]
name = "Net A"
model = "stakes:digits_cnn"
mean = [0.5, 0.5, 0.5]

[[method]]
name = "Ours"
method = "structguard"
preset = "paper"
images = false

[[method]]
method = "neggrad"
"""


def read(tmp_path, text=GOOD, **settings):
    path = tmp_path / "trial.toml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path, {"images": "digits"} | settings)


def test_every_combination_is_a_command_line(tmp_path):
    cells = read(tmp_path).cells
    assert len(cells) == 1 * 2 * 2 * 2
    assert cells[0].name == "net-a-ours-k4-s0"
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4  # a table after the first seed
    words = cells[0].arguments(tmp_path / "out")
    assert words[:5] == ["unlearn", "--method", "structguard", "--model", "stakes:digits_cnn"]
    for wanted in (["--forget", "random:4"], ["--mean", "0.5", "0.5", "0.5"], ["--data", "digits"]):
        start = words.index(wanted[0])
        assert words[start : start + len(wanted)] == wanted
    assert "--no-images" in words
    assert (cells[1].method, cells[1].name) == ("neggrad", "net-a-neggrad-k4-s0")


def test_placeholders_of_the_cell_reach_every_option(tmp_path):
    text = GOOD.replace('"stakes:digits_cnn"', '"{images}/net-{seed}-{k}"')
    models = {cell.options["model"] for cell in read(tmp_path, text).cells}
    assert models == {f"digits/net-{seed}-{k}" for seed in (0, 1) for k in (4, 8)}


def test_the_fingerprint_follows_the_images_that_a_table_lists(tmp_path):
    table, image = tmp_path / "forget.csv", tmp_path / "a.png"
    table.write_text("\ufeffpath,label\na.png,cat\nmissing.png,cat\n")
    image.write_bytes(b"one")
    first = fingerprint({"forget": str(table)})
    assert fingerprint({"forget": str(table)}) == first
    image.write_bytes(b"two")
    second = fingerprint({"forget": str(table)})
    table.write_text("path,label\na.png,dog\nmissing.png,cat\n")
    assert len({first, second, fingerprint({"forget": str(table)})}) == 3
    table.write_bytes(b"\xff\x00 no table")
    assert fingerprint({"forget": str(table)})  # unlearn says what is wrong with it


def test_the_fingerprint_follows_options_and_files_but_not_the_place(tmp_path):
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"one")
    text = GOOD.replace("mean =", f'weights = "{weights}"\nmean =')
    first = read(tmp_path, text).cells[0].fingerprint()
    assert read(tmp_path, text).cells[0].fingerprint() == first
    assert (
        read(tmp_path, text.replace("max_steps = 5", "max_steps = 6")).cells[0].fingerprint()
        != first
    )
    weights.write_bytes(b"two")
    assert read(tmp_path, text).cells[0].fingerprint() != first


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds =", "sedes =", "unknown key sedes; did you mean seeds"),
        ("eval-samples", "eval-sample", "unknown option.*eval_sample; did you mean eval_samples"),
        ("images =", "imagse =", "unknown option of structguard.*did you mean images"),
        ("mean =", "meen =", r"unknown option in \[\[network\]\]: meen; did you mean mean"),
        ('"neggrad"', '"negrad"', "method 'negrad' is unknown; did you mean neggrad"),
        ('"paper"', '"papier"', "preset 'papier' is unknown; structguard has paper, reference"),
        ("max_steps = 5", "max_steps = -1", "max_steps=-1: give a whole number from 0"),
        ("max_steps = 5", 'max_steps = "5"', "max_steps='5': give a whole number"),
        ("max_steps = 5", "eps = 3", "unknown option of neggrad in .common.: eps"),
        ("k = [4, 8]", "k = [4, 4]", r"expected k = \[...\], different whole numbers from 1"),
        ("k = [4, 8]", "k = [0]", "expected k = "),
        ("seeds = [0, 1]", "seeds = []", "expected seeds = "),
        ('"random:{k}"', '"folder"', "give k = .* if forget contains {k}, and only then"),
        ('name = "Ours"\nmethod = "structguard"\npreset = "paper"\nimages = false',
         'method = "neggrad"', "two cells would be called net-a-neggrad-k4-s0"),
        ('model = "stakes:digits_cnn"', "", "has no model"),
        ("mean = [0.5, 0.5, 0.5]", "mean = {a = 1}",
         "mean = .* in network: expected a text, a number or"),
        ('title = "Trial"', "title = ", "is not TOML"),
        ("[[method]]", "[[methods]]", "unknown key methods; did you mean method"),
        ("seeds =", 'figures = ["3"]\nseeds =', "figures: there is no 3; choose one of 2a, 2b"),
        ("seeds =", 'figures = "2a"\nseeds =', r"expected figures = \[...\], different figures"),
        ("seeds =", 'figures = ["6", 6]\nseeds =', "one of them appears twice"),
        ("seeds =", 'columns = ["retrieval_retain_mad"]\nseeds =',
         "columns: there is no retrieval_retain_mad; did you mean retrieval_retain_map"),
        ("[set]", '[paper]\nnote = "x"\n[set]',
         "expected paper.source = a text: where its numbers are printed"),
        ("[set]", '[paper]\nsource = "x"\n[[paper.row]]\nmethod = "a"\nk = "b"\n[set]',
         "expected paper.row = .* a method, a k of the recipe, and percentages"),
        ("[set]", '[paper]\nsource = "x"\n[[paper.row]]\nmethod = "a"\nk = 5\n[set]',
         "k = .*; give one of"),
        ("[set]", '[paper]\nsource = "x"\n[[paper.row]]\nmethod = "a"\n[set]',
         "k = .*; give one of"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, GOOD.replace(old, new))
    assert "trial.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_or_needless_setting_is_named(tmp_path):
    (tmp_path / "r.toml").write_text(GOOD)
    with pytest.raises(InputError, match=r"--set images=.*the images"):
        read_recipe(tmp_path / "r.toml")
    with pytest.raises(InputError, match=r"--set image=.*did you mean images"):
        read(tmp_path, image="x")
    with pytest.raises(InputError, match="--set seed="):
        read(tmp_path, seed="1")


def test_settings_of_networks_and_methods_that_are_not_to_run_are_not_asked_for(tmp_path):
    text = (
        GOOD
        + """lr = "{rate}"

[[network]]
name = "Net B"
model = "{code}:net"
weights = "{trained}"
"""
    )
    (tmp_path / "r.toml").write_text(text)

    def asked(only, **settings):
        return read_recipe(tmp_path / "r.toml", {"images": "digits"} | settings, only)

    with pytest.raises(InputError, match=r"--set code=.* --set rate=.* --set trained="):
        asked([])
    recipe = asked(["network=Net A,method=Ours"])
    assert len(recipe.cells) == 2 * 2 * 2 * 2, "the others are there"
    assert recipe.cells[0].options["data"] == "digits"
    with pytest.raises(InputError, match=r"add --set code=[^,]*, --set trained=[^,]*$"):
        asked(["method=Ours"])
    with pytest.raises(InputError, match=r"add --set rate=[^,]*$"):
        asked(["network=Net A"])
    assert asked(["network=Net A"], rate="0.5").cells[1].options["lr"] == 0.5
    with pytest.raises(InputError, match="lr"):
        asked(["network=Net A"], rate="fast")
    with pytest.raises(InputError, match=r"--set images="):
        read_recipe(tmp_path / "r.toml", {}, ["method=Ours"])
    with pytest.raises(InputError, match="there is no method Theirs"):
        asked(["method=Theirs"])


@pytest.mark.parametrize("given", ['"own.py:mine"', '["own.py:mine"]'])
def test_a_column_of_ones_own_measure_however_it_is_named(tmp_path, given):
    text = GOOD.replace("max_steps = 5", f"metric = {given}").replace(
        "seeds =", 'columns = ["+mine"]\nseeds ='
    )
    found = read(tmp_path, text)
    assert found.columns == ["+mine"]
    assert "--metric own.py:mine" in " ".join(found.cells[0].arguments(tmp_path))


def test_placeholders_are_filled_in_names_and_numbers(tmp_path):
    text = GOOD.replace('"Net A"', '"Net {net}"').replace('"Ours"', '"Ours at {lr}"')
    text = text.replace('preset = "paper"', 'preset = "{preset}"\nlr = "{lr}"')
    text = text.replace('method = "neggrad"', 'method = "{other}"').replace("= 5", '= "{steps}"')
    given = {"net": "B", "lr": "1e-3", "preset": "paper", "other": "l2ul", "steps": "7"}
    first, second = read(tmp_path, text, **given).cells[:2]
    assert (first.name, first.network) == ("net-b-ours-at-1e-3-k4-s0", "Net B")
    assert (first.method, second.method) == ("Ours at 1e-3", "l2ul")
    assert (first.options["lr"], second.options["max_steps"]) == (1e-3, 7)
    assert "--preset paper" in " ".join(first.arguments(tmp_path))
    with pytest.raises(InputError, match="lr='fast': give a number above 0"):
        read(tmp_path, text, **given | {"lr": "fast"})
    with pytest.raises(InputError, match=r"max_steps='7\.5': give a whole number"):
        read(tmp_path, text, **given | {"steps": "7.5"})


def test_a_network_that_is_another_for_each_seed_has_one_name(tmp_path):
    text = GOOD.replace('name = "Net A"\n', "").replace("stakes:digits_cnn", "{images}/{seed}")
    cells = read(tmp_path, text).cells
    assert {cell.network for cell in cells} == {"digits/{seed}"}
    assert {cell.options["model"] for cell in cells} == {"digits/0", "digits/1"}


def test_without_k_the_images_are_given(tmp_path):
    text = GOOD.replace("k = [4, 8]\n", "").replace("random:{k}", "faces.csv")
    cells = read(tmp_path, text).cells
    assert [cell.name for cell in cells[:2]] == ["net-a-ours-s0", "net-a-neggrad-s0"]
    assert cells[0].k is None


def test_no_such_recipe_names_the_nearest():
    with pytest.raises(InputError, match=r"quik.*quick"):
        read_recipe("quik")


def bench(*words):
    return cli.main(["bench", *map(str, words)])


TRIAL = """
forget = "random:1"
seeds = [0]
[common]
data = "digits"
[[network]]
model = "stakes:digits_cnn"
weights = "random"
[[method]]
method = "neggrad"
[[method]]
method = "finetune"
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"finetune"', '"finetune"\neval_samples = "x"', "--eval-samples x: give a whole number"),
        ('"finetune"', '"finetune"\nresize = "squish"', "--resize squish: give one of crop"),
        ('"finetune"', '"finetune"\ndevice = "cuda"', "--device cuda cannot be used here"),
        ('"finetune"', '"finetune"\nmicro_batch = 0', "--micro-batch 0: give 1 to"),
        ('"finetune"', '"finetune"\neval_samples = 0', "--eval-samples 0: score at least 1 image"),
        ('"finetune"', '"finetune"\neval_samples = -1', "--eval-samples -1: score at least 1"),
        ('"finetune"', '"finetune"\nmax_memory = -1', "--max-memory -1.* a number of GiB above 0"),
        ('"digits"', '"digits"\nmetric = "own.py:other"', "no function other in own.py; name one"),
        ('"random"', '"nothere.safetensors"', "--weights nothere.safetensors: no such file"),
        ('weights = "random"', "", "names an architecture, whose weights would be random"),
        ('"stakes:digits_cnn"', '"hf:nothere"', "--model hf:nothere: no such file"),
        ('"stakes:digits_cnn"', '"nothere"', "--model nothere: no such file"),
        ('"digits"', '"nothere"', "--data nothere: no such file"),
        ('"digits"', '"digits"\nmetric = ["nothere.py:f"]', "--metric nothere.py:f: no such file"),
        ('data = "digits"', "", "--forget random:1: this draws from the training set; add --data"),
        ('"random:1"\nseeds = [0]\n[common]\ndata = "digits"', '"images"\nseeds = [0]',
         "finetune-s0: --method finetune needs retained training data: add --data"),
    ],
)  # fmt: skip
def test_what_a_cell_would_be_refused_for_is_said_before_the_first_runs(
    tmp_path, monkeypatch, capsys, old, new, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "own.py").write_text("def mine(classifier, given): return 1")
    assert old in TRIAL
    (tmp_path / "trial.toml").write_text(TRIAL.replace(old, new))
    words = ["bench", "trial.toml", "--out", "out"]
    refused([*words, "--dry-run"], f"recipe trial.toml: cell .*{message}", capsys)
    refused(words, message, capsys)


def test_a_cell_is_checked_only_if_it_has_to_run(tmp_path):
    """Its data may be gone by then; and another machine has files of its own."""
    first, second = read(tmp_path, TRIAL.replace('"digits"', '"{images}"'), images="gone").cells
    check_cells([first, second], tmp_path, here=False)
    record = {"state": "finished", "fingerprint": first.fingerprint()}
    write_text(tmp_path / "cells" / f"{first.name}.json", json.dumps(record))
    check_cells([first], tmp_path, here=True)
    with pytest.raises(InputError, match=f"cell {second.name}: --data gone: no such file"):
        check_cells([first, second], tmp_path, here=True)


def test_names_that_differ_in_signs_alone_are_told_apart_by_the_user(tmp_path):
    methods = '[[method]]\nname = "{}"\nmethod = "neggrad"\n'
    text = TRIAL.partition("[[method]]")[0] + methods.format("a+b") + methods.format("a-b")
    with pytest.raises(InputError, match=r"two cells would be called .*by letters or digits"):
        read(tmp_path, text.replace('"digits"', '"{images}"'))


SEEN: set[tuple[str, str]] = set()  # methods and options that the command line has understood


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_names_no_place_and_its_commands_are_understood(
    name, tmp_path, monkeypatch, capsys
):
    text = shipped_recipes()[name].read_text(encoding="utf-8")
    assert '"/' not in text
    tables = tomllib.loads(text)
    monkeypatch.setattr("stakes.cli.cells._check_files", lambda *given: None)
    given = [word for key in tables.get("set", {}) for word in ("--set", f"{key}=/some/{key}")]
    assert bench(name, "--out", tmp_path / "new", "--dry-run", *given) == 0
    printed = [shlex.split(line) for line in capsys.readouterr().out.splitlines()[1::2]]
    each = len(tables["network"]) * len(tables["method"])  # of one k and one seed
    assert len(printed) == each * len(tables.get("k", [0])) * len(tables["seeds"])
    for command, *words in printed[:each]:
        assert command == "stakes"
        method = words[words.index("--method") + 1]
        options = {(method, word) for word in words if word.startswith("--")}
        if not options <= SEEN:  # values are checked before: each option of a method once
            cli.make_app(words).parse_args(words, exit_on_error=False, print_error=False)
        SEEN.update(options)
    for row in tables.get("paper", {}).get("row", []):
        assert PaperRow(**row).acc_test is not None
    assert not (tmp_path / "new").exists()


def test_figures_and_columns_are_those_that_the_recipe_names(tmp_path):
    assert (read(tmp_path).figures, read(tmp_path).columns) == ([], [])
    more = 'figures = [8, "2a"]\ncolumns = ["+retrieval_forget_r1"]\nthreads = 2\nseeds ='
    found = read(tmp_path, GOOD.replace("seeds =", more))
    assert (found.figures, found.columns) == (["8", "2a"], ["+retrieval_forget_r1"])
    assert (found.threads, read(tmp_path).threads) == (2, None)


def test_every_figure_of_the_paper_has_a_recipe():
    recipes = [tomllib.loads(path.read_text("utf-8")) for path in shipped_recipes().values()]
    assert {number for tables in recipes for number in tables.get("figures", [])} == {*FIGURES}


def test_the_help_lists_every_shipped_recipe(capsys):
    assert bench("--help") == 0
    shown = set(re.findall(r"[\w-]+", capsys.readouterr().out.replace("│", " ")))
    assert "table2-cifar10" in shipped_recipes().keys() <= shown


def test_paper_lines_of_a_recipe_without_k_have_none(tmp_path):
    text = GOOD.replace("k = [4, 8]\n", "").replace("random:{k}", "classes:10%")
    row = '[paper]\nsource = "x"\n[[paper.row]]\nmethod = "a"\nacc_test = 5.0\n[set]'
    found = read(tmp_path, text.replace("[set]", row))
    assert found.cells[0].options["forget"] == "classes:10%"
    assert found.paper_rows() == [{"method": "a", "acc_test": 5.0}]
