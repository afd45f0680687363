"""Means, spreads, changes and marks against numbers worked out by hand, and the three formats."""

import csv
import io
import re

import pytest

from stakes.errors import InputError
from stakes.rows import Stat
from stakes.runs.columns import check_columns, columns, latex_columns
from stakes.runs.notes import MARKING, circumstances, endings
from stakes.runs.tables import ahead, filled, summarise
from stakes.runs.typeset import escape, to_csv, to_latex, to_markdown


def row(method, seed, test, *, forget=0.0, retain=95.0, network="net", k=16, **more):
    return {
        "cell_network": network,
        "cell_method": method,
        "k": k,
        "seed": seed,
        "acc_test_before": 92.0,
        "acc_test": test,
        "acc_retain_before": 99.0,
        "acc_retain": retain,
        "acc_forget_before": 100.0,
        "acc_forget": forget,
        "seconds_total": 10.0 + seed,
        **more,
    }


def line(lines, method, **wanted):
    found = [
        item
        for item in lines
        if item.method == method and all(getattr(item, k) == v for k, v in wanted.items())
    ]
    assert len(found) == 1, found
    return found[0]


def test_mean_and_sample_standard_deviation_of_values_and_changes():
    rows = [row("a", 0, 88.0), row("a", 1, 90.0), row("a", 2, 95.0)]
    stats = line(summarise(rows), "a").stats
    # mean 91; squared distances 9 + 1 + 16 = 26; 26 / 2 = 13
    assert stats["acc_test"] == Stat(3, 91.0, pytest.approx(13**0.5))
    assert stats["change_acc_test"] == Stat(3, -1.0, pytest.approx(13**0.5))
    assert stats["forgotten"] == Stat(3, 100.0, 0.0)
    assert stats["change_forgotten"].mean == 100.0
    assert stats["seconds_total"].mean == 11.0


def test_the_change_is_taken_run_by_run():
    """Scored on other images each seed, values scatter and their changes need not."""
    rows = [row("a", 0, 88.0), row("a", 1, 94.0, acc_test_before=98.0)]
    stats = line(summarise(rows), "a").stats
    assert stats["acc_test"].sd == pytest.approx(18**0.5)
    assert stats["change_acc_test"] == Stat(2, -4.0, 0.0)


def test_one_run_has_no_spread_and_what_was_not_measured_is_no_zero():
    stats = line(summarise([row("a", 0, 88.0, acc_retain=None)]), "a").stats
    assert stats["acc_test"] == Stat(1, 88.0, None)
    assert "acc_retain" not in stats
    assert "drift_probes" not in stats


def test_before_counts_every_seed_once_whatever_the_number_of_methods():
    rows = [row(m, s, 88.0, acc_test_before=90.0 + s) for s in (0, 2) for m in ("a", "b", "c")]
    before = line(summarise(rows), "Before")
    assert before.kind == "before"
    assert before.stats["acc_test"] == Stat(2, 91.0, pytest.approx(2**0.5))
    assert before.stats["forgotten"].mean == 0.0
    assert "steps" not in before.stats


def test_lines_come_by_network_then_k():
    rows = [row("a", 0, 88.0, network=n, k=k) for k in (64, 16) for n in ("one", "two")]
    order = [(item.network, item.k) for item in summarise(rows) if item.kind == "ours"]
    assert order == [("one", 16), ("one", 64), ("two", 16), ("two", 64)]


@pytest.mark.parametrize(
    ("stats", "better", "winner"),
    [
        ({"a": (3, 90.0, 1.0), "b": (3, 87.9, 1.0)}, 1, "a"),
        ({"a": (3, 90.0, 1.0), "b": (3, 88.0, 1.0)}, 1, None),  # the sum of the two is no more
        ({"a": (3, 90.0, 1.0), "b": (3, 80.0, 1.0), "c": (3, 89.0, 0.1)}, 1, None),  # every other
        ({"a": (3, 90.0, 1.0), "b": (3, 87.9, 1.0)}, -1, "b"),
        ({"a": (3, 90.0, 1.0), "b": (3, 87.9, 1.0)}, 0, None),
        ({"a": (3, 90.0, 0.0), "b": (1, 10.0, None)}, 1, None),  # one run has no spread
        ({"a": (1, 90.0, None), "b": (3, 10.0, 0.0)}, 1, None),
        ({"a": (3, 90.0, 0.0)}, 1, None),  # nobody to lead
        ({"a": (3, 90.0, 0.0), "b": (3, 90.0, 0.0)}, 1, None),
    ],
)
def test_the_rule_of_marks(stats, better, winner):
    assert ahead({name: Stat(*numbers) for name, numbers in stats.items()}, better) == winner


def test_a_lead_that_the_printed_digits_do_not_show_is_no_lead():
    stats = {"a": Stat(2, 0.00002, 0.0), "b": Stat(2, 0.00001, 0.0)}
    assert ahead(stats, 1) == "a"
    assert ahead(stats, 1, 1e-4) is None


def test_a_method_that_left_images_known_competes_in_forgetting_alone():
    rows = [
        row(method, seed, test + 0.1 * seed, forget=forget, forget_flip=flip + seed)
        for method, test, forget, flip in (("a", 90, 0, 50), ("b", 85, 0, 60), ("lazy", 92, 90, 5))
        for seed in (0, 1)
    ]
    lines = summarise(rows)
    assert "acc_test" in line(lines, "a").best
    assert line(lines, "lazy").best == {"forget_flip"}
    assert line(lines, "b").best == frozenset()
    assert "forgotten" not in line(lines, "a").best  # b forgot as much


def test_a_class_that_is_gone_makes_no_network_collapse():
    whole = {"forgotten_classes": ["cat"], "acc_test_kept_classes_before": 92.0}
    rows = [
        row(m, s, 70 + s, forget_flip=flip, acc_test_kept_classes=kept - 0.1 * s, **whole)
        for m, kept, flip in (("kept", 91.8, 5.0), ("lost", 80.0, 1.0), ("other", 90.0, 9.0))
        for s in (0, 1)
    ]
    lines = summarise(rows, more=["acc_test_kept_classes"])
    assert line(lines, "kept").best == {"forget_flip", "acc_test_kept_classes"}
    assert line(lines, "lost").best == frozenset()


def test_a_collapsed_network_is_ahead_in_nothing():
    rows = [
        row(method, seed, test + 0.1 * seed, forget_flip=flip + 0.1 * seed)
        for method, test, flip in (("whole", 90, 50), ("collapsed", 20, 1), ("other", 88, 60))
        for seed in (0, 1)
    ]
    lines = summarise(rows)
    assert line(lines, "collapsed").best == frozenset()
    assert {"forget_flip", "acc_test"} <= line(lines, "whole").best


def test_columns_are_added_dropped_and_chosen():
    more = {"mia_forget": 0.5, "mine": 3.0}
    lines = summarise([row("a", 0, 90.0, **more)], more=["mia_forget", "mine"])
    usual = columns(filled(lines))
    assert columns(filled(lines), ["+mia_forget", "+mine", "-acc_test"]) == [
        *(key for key in usual if key != "acc_test"), "mia_forget", "mine"
    ]  # fmt: skip
    assert columns(filled(lines), ["mine", "acc_test"]) == ["mine", "acc_test"]
    shown = to_markdown(lines, "t", [], ["mine", "acc_test"])
    assert "| method | n | mine | A\\_test |" in shown
    assert "| a | 1 | 3.00 | 90.00 |" in shown
    _, found = csv.DictReader(io.StringIO(to_csv(lines, ["mine"])))
    assert (found["method"], found["mine_mean"]) == ("a", "3.0")


def test_a_page_has_room_for_seven_columns_and_those_that_were_asked_for_come_first():
    lines = summarise([row("a", 0, 90.0, mia_forget=0.5)], more=["mia_forget"])
    words = ["+mia_forget", "-steps"]
    keys = columns(filled(lines), words)
    few = latex_columns(keys, words)
    assert len(few) == 7 < len(keys)
    assert {"mia_forget", "forgotten", "acc_test", "acc_retain"} <= set(few)
    assert few == [key for key in keys if key in few]
    assert latex_columns(["acc_test", "steps"]) == ["acc_test", "steps"]


def test_unknown_columns_are_told_with_the_nearest():
    assert check_columns(["+mia_forget", "-steps", "own"], ["own"]) == [
        "+mia_forget", "-steps", "own"
    ]  # fmt: skip
    with pytest.raises(InputError) as caught:
        check_columns(["+mia_forgett"])
    assert "mia_forget?" in str(caught.value)
    with pytest.raises(InputError) as caught:
        check_columns(["+steps", "-steps"])
    assert "steps" in str(caught.value)


PAPER = [
    {"method": "Before", "k": 16, "forgotten": 0.0, "acc_test": 92.59, "acc_retain": 99.6},
    {"method": "L2UL", "k": 16, "forgotten": 100.0, "acc_test": 79.65, "acc_retain": 85.75},
    {"method": "L2UL", "k": 64, "acc_test": 67.08},
]


def test_printed_numbers_stand_beside_and_never_compete():
    lines = summarise([row("L2UL", 0, 50.0), row("L2UL", 1, 50.2)], PAPER)
    assert [item.label for item in lines] == ["Before", "L2UL", "paper: Before", "paper: L2UL"]
    printed = line(lines, "L2UL", kind="paper")
    assert printed.stats["change_acc_test"].mean == pytest.approx(79.65 - 92.59)
    assert printed.best == frozenset()
    assert line(lines, "L2UL", kind="ours").best == frozenset()
    assert "change_acc_test" not in line(lines, "Before", kind="paper").stats


@pytest.fixture
def lines():
    rows = [
        row(m, s, t + s, forget_flip=30.0, network="100% A_b & co", steps=1234)
        for m, t in (("S|G", 88.0), ("Neg", 10.0))
        for s in (0, 1)
    ]
    return summarise(rows, PAPER[:2])


def test_printed_numbers_without_a_k_stand_below_every_k():
    paper = [{"method": "Before", "acc_test": 92.59}, {"method": "L2UL", "acc_test": 64.56}]
    lines = summarise([row("L2UL", 0, 60.0, k=k) for k in (4999, 5000)], paper)
    printed = [item for item in lines if item.kind == "paper"]
    assert [(item.k, item.method) for item in printed] == [
        (k, method) for k in (4999, 5000) for method in ("Before", "L2UL")
    ]
    assert printed[3].stats["change_acc_test"].mean == pytest.approx(64.56 - 92.59)


def test_csv_has_every_number_unrounded(lines):
    table = list(csv.DictReader(io.StringIO(to_csv(lines))))
    first = next(item for item in table if item["method"] == "S|G")
    assert first["network"] == "100% A_b & co"
    assert (first["source"], first["n"], first["k"]) == ("measured", "2", "16")
    assert float(first["acc_test_mean"]) == 88.5
    assert float(first["acc_test_sd"]) == pytest.approx(0.5**0.5)
    assert first["best"] == "acc_test change_acc_test"
    assert first["drift_probes_mean"] == ""
    assert [item["source"] for item in table] == ["measured"] * 3 + ["paper"] * 2


def test_markdown_marks_escapes_and_signs(lines):
    text = to_markdown(lines, "A title", [MARKING, "on | this"])
    assert text.startswith("# A title\n")
    assert "## 100% A\\_b & co, k = 16" in text
    (ours,) = [part for part in text.splitlines() if part.startswith("| S\\|G")]
    assert "| **88.50 ± 0.71** | **−3.50 ± 0.71** |" in ours
    assert "| 1234 ± 0 |" in ours
    assert "| paper: L2UL |  | 100.00 | +100.00 | 79.65 | −12.94 |" in text
    rows = [part for part in text.splitlines() if part.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", part)) for part in rows}) == 1
    assert "on \\| this" in text


def test_a_number_of_fewer_runs_says_of_how_many():
    rows = [row("a", 0, 88.0), row("a", 1, 90.0, acc_retain=None)]
    assert "95.00 (n=1)" in to_markdown(summarise(rows), "t", [])


def test_latex_is_balanced_and_escaped(lines):
    text = to_latex(lines, "50% & more_or less", ["n ≥ 2 #1"])
    assert r"\caption{50\% \& more\_or less}" in text
    assert r"\multicolumn{14}{l}{100\% A\_b \& co, $k=16$}" in text
    assert r"\textbf{88.50 $\pm$ 0.71} & \textbf{$-$3.50 $\pm$ 0.71}" in text
    assert r"n $\geq$ 2 \#1" in text
    bodies = [part for part in text.splitlines() if part.endswith(r"\\") and "midrule" not in part]
    assert len(bodies) == 1 + 5
    assert {len(re.findall(r"(?<!\\)&", part)) for part in bodies} == {
        len(columns(filled(lines))) + 1
    }
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert text.replace(r"\$", "").count("$") % 2 == 0


def test_columns_of_retrieval_are_asked_for_and_those_of_classes_are_there_where_measured():
    more = {"retrieval_retain_map": 61.5, "acc_test_kept_classes": 88.25}
    plain = summarise([row("a", 0, 90.0, retrieval_retain_map=61.5)])
    whole = summarise([row("a", 0, 90.0, **more), row("b", 0, 90.0)])
    asked = columns(filled(plain), ["+retrieval_retain_map"])
    assert [key for key in asked if key not in columns(filled(plain))] == ["retrieval_retain_map"]
    assert [key for key in columns(filled(whole)) if key not in columns(filled(plain))] == [
        "acc_test_kept_classes"
    ]
    assert "61.50" in to_markdown(plain, "t", [], asked)
    assert "61.50" not in to_markdown(plain, "t", [])
    assert "& mAP ret." in to_latex(plain, "t", [], asked)
    assert "A\\_test, kept classes | " in to_markdown(whole, "t", [])
    assert "61.5" in to_csv(plain)


def test_latex_escapes_every_sign_once():
    assert escape("\\_{}") == r"\textbackslash{}\_\{\}"
    assert escape("a~b^c#d$e%f&g<h>i") == (
        r"a\textasciitilde{}b\textasciicircum{}c\#d\$e\%f\&g\textless{}h\textgreater{}i"
    )


def test_circumstances_are_said_and_differences_doubted():
    same = {"cpu": "A chip", "threads": 2, "version_stakes": "1", "version_torch": "2"}
    same |= {"n_test": 100, "n_retain": 50}
    measured, scored = circumstances([same, dict(same)])
    assert "A chip, 2 threads" in measured
    assert scored == "Scored on 100 test and 50 retained images."
    assert "A chip, 1 thread." in circumstances([same | {"threads": 1}])[0]
    notes = circumstances([same, same | {"threads": 4, "version_torch": "3"}])
    assert "2 threads; A chip, 4 threads" in notes[0]
    assert any("compare with care" in note for note in notes)
    assert any("different versions" in note and "torch 3" in note for note in notes)


def test_rows_of_other_images_in_one_table_are_named():
    same = {"forget_digest": "f", "test_digest": "t", "retain_digest": "r"}
    rows = [row(m, s, 88.0, **same | {"forget_digest": s}) for m in "ab" for s in (0, 1)]
    older = row("c", 0, 88.0, forget_digest=0, test_digest=None)
    assert not any("same images" in note for note in circumstances([*rows, older]))
    others = row("c", 0, 88.0, **same | {"forget_digest": 0, "test_digest": "u"}, n_test=79)
    notes = circumstances([*rows, others])
    assert sum(note.startswith("Scored on") for note in notes) == 2
    (note,) = [note for note in notes if "same images" in note]
    assert note.startswith("net, k = 16: rows of the same seed are not of the same images (test")
    apart = [row("a", 0, 88.0, network="net", **same), row("b", 0, 88.0, network="other")]
    assert not any("same images" in note for note in circumstances(apart))
    (note,) = circumstances([rows[0], row("b", 0, 88.0, forget_digest="g", retain_digest="h")])[-1:]
    assert "(images to forget, retained images)" in note


def test_runs_that_did_not_end_by_forgetting_are_named():
    done = {"stop_reason": "forgotten: every forget image is misclassified"}
    rows = [row("a", 0, 88.0, **done), row("b", 0, 10.0, **done)]
    rows.append(row("b", 1, 10.0, stop_reason="diverged: the loss is not finite at step 24"))
    rows += [row("b", seed, 10.0, stop_reason="limit: all tried") for seed in (2, 3)]
    assert endings(rows) == [
        "net, k = 16, b: 3 of 4 runs ended otherwise than with all forgotten "
        "(diverged: the loss is not finite at step 24; limit: all tried)."
    ]


HOSTILE = ("=cmd()", "+1", "-1", "@SUM(A1)", "\t=1", "[x](http://a)", "*all*", "<script>", "# head")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_inert_in_every_table(name):
    row = {"cell_network": name, "cell_method": name, "k": 1, "acc_forget": 0.0, "seed": 0}
    lines = summarise([row | {"acc_forget_before": 100.0}])
    for cell in next(csv.DictReader(io.StringIO(to_csv(lines)))).values():
        assert cell[:1] not in tuple("=+-@\t")
    shown = to_markdown(lines, name, [name])
    assert "[x]" not in shown
    assert "*all*" not in shown.replace("\\*", "")
    assert "<script>" not in shown.replace("\\<", "")
    assert not any(line.startswith(("# head", "=", "+", "- ")) for line in shown.splitlines())
    body = to_latex(lines, name, [name]).replace("{[}", "").replace("{*}", "")
    assert r"\\[" not in body.replace("\n", "")
    assert r"\\*" not in body.replace("\n", "")


def test_a_number_that_begins_a_note_is_no_list():
    assert "1\\. of" in to_markdown([], "t", ["1. of"])
    assert "\\- of" in to_markdown([], "t", ["- of"])
