"""The sentences follow the numbers, and say nothing where nothing was measured."""

import pytest

from stakes.report.attacks import attack, counted, stand_out, table, traces
from stakes.report.evidence import confusion, saliency
from stakes.report.findings import knowledge, whole_classes
from stakes.report.intervals import paired_change, wilson
from stakes.report.records import Row
from stakes.report.run_folder import RunFolder
from stakes.report.verdict import traces as can_tell

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)


def attacked(attack="loss", of="forget", when="after", **changes):
    numbers = {"auc": 0.5, "low": 0.35, "high": 0.65, "found": 0.0, "unlikely": 0.0}
    numbers |= {"m": 16, "n": 1000}
    return {"attack": attack, "of": of, "when": when, **numbers, **changes}


def a_run(*records, forget=(), classes=(), cams=(), **row):
    audit = {"membership": list(records), "saliency": list(cams)}
    return RunFolder("run", Row({"k": 16, **row}), [], list(classes), list(forget), audit)


def heads(found):
    return " | ".join(item.head for item in found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"auc": 0.06, "low": 0.02, "high": 0.19}, "Detectable: "),
        ({"auc": 0.5}, "look like unseen ones"),
        ({"auc": 0.45, "low": 0.3, "high": 0.6}, "look like unseen ones"),
        ({"auc": 0.3, "low": 0.15, "high": 0.5}, "uncertain whether their loss"),
        ({"auc": 0.6, "low": 0.4, "high": 0.8}, "uncertain whether their loss"),
        ({"auc": 0.9, "low": 0.8, "high": 0.96}, "still look like images that the network was"),
    ],
)
def test_what_is_said_of_forget_images_follows_the_interval(changes, words):
    run = a_run(attacked(**changes), attacked(when="before", auc=0.52))
    assert words in heads(traces(run))
    assert stand_out(run) == words.startswith("Detectable")
    [finding] = traces(run)
    assert f"an AUC of {changes['auc']:.2f} (95\u00a0% interval" in finding.text
    assert "before, it was 0.52" in finding.text
    assert "16 images against 1,000 unseen ones" in finding.text


@pytest.mark.parametrize(("classes", "near"), [(None, "about 0.50"), (["cat"], "be near 0")])
def test_a_network_that_never_saw_a_whole_class_finds_it_unlikely_too(classes, near):
    low = attacked(auc=0.06, low=0.02, high=0.19)
    [finding] = traces(a_run(low, forgotten_classes=classes))
    assert finding.head.startswith("Detectable") == (classes is None)
    assert near in finding.text
    assert ("suspect" in finding.text) == (classes is None)
    high = a_run(attacked(auc=0.9, low=0.8, high=0.96), forgotten_classes=classes)
    assert near in traces(high)[0].text
    ideal = "0.50 would be ideal" if classes is None else "these classes would be near 0"
    assert ideal in can_tell(a_run(low, forgotten_classes=classes)).detail


@pytest.mark.parametrize(
    ("auc", "low", "found", "words"),
    [
        (0.51, 0.49, 1.25, "nothing"),
        (0.51, 0.49, 2.25, "nothing"),  # 1 % of 1,000 unseen images may be 1.8 %
        (0.51, 0.49, 3.25, "reveal little"),  # single images, though the AUC says nothing
        (0.54, 0.52, 3.25, "reveal little"),
        (0.7, 0.68, 3.25, "reveal something"),
        (0.9, 0.88, 3.25, "reveal much"),
    ],
)
def test_what_is_said_of_the_network_itself(auc, low, found, words):
    run = a_run(attacked("learned", "retain", auc=auc, low=low, high=1.0, m=2000, found=found))
    [finding] = traces(run)
    assert words in finding.head
    assert "2,000 against 1,000" in finding.text
    assert ("says nothing about the forgotten images" in finding.text) == (words == "nothing")
    assert f"{found:.1f}\u00a0% of them" in finding.text


@pytest.mark.parametrize(
    ("found", "unlikely", "words"),
    [(0.0, 0.0, "no single"), (6.25, 0.0, "some images"), (0.0, 62.5, "many images")],
)
def test_single_images_at_one_false_alarm_in_a_hundred(found, unlikely, words):
    run = a_run(attacked("learned", found=found), attacked("loss", unlikely=unlikely))
    (finding,) = (item for item in traces(run) if "identified" in item.head)
    assert words in finding.head
    assert finding.head.endswith("by its answer alone.")
    assert f"{found * 0.16:.0f} of 16 images would be taken for training" in finding.text
    assert f"and {unlikely * 0.16:.0f} would stand out" in finding.text
    few = a_run(attacked("learned", found=None), attacked("loss", unlikely=None))
    assert "identified" not in heads(traces(few))
    share = 100.0 if unlikely else 0.0
    one = a_run(attacked("learned", m=1), attacked("loss", unlikely=share, m=1))
    said = "the image would be identified" if unlikely else "no single image would be identified"
    assert said in heads(traces(one))


@pytest.mark.parametrize(
    ("auc", "low", "found", "words", "many"),
    [
        (0.97, 0.9, 62.5, "Detectable by altered copies", "many images"),
        (0.97, 0.9, 6.25, "Detectable by altered copies", "some images"),
        (0.5, 0.36, 0.0, "do not give the images away", "no single image"),
        (0.5, 0.1, 0.0, "uncertain whether altered copies", "no single image"),
    ],
)
def test_what_altered_copies_give_away(auc, low, found, words, many):
    copies = attacked("copies", auc=auc, low=low, high=max(auc, 0.6), found=found, n=256)
    run = a_run(attacked("learned"), attacked("loss"), copies)
    assert words in heads(traces(run))
    assert f"{many} would be identified by these attacks" in heads(traces(run))
    assert f"altered copies would identify {found * 0.16:.0f}" in traces(run)[-1].text
    assert counted(attack(run, "copies", "forget", "after"), "found") == round(found * 0.16)


def test_of_altered_copies_that_were_not_tried_nothing_is_said():
    run = a_run(attacked("learned"), attacked("loss"))
    assert attack(run, "copies", "forget", "after") is None
    assert "no single image would be identified by its answer alone" in heads(traces(run))
    assert "copies" not in traces(run)[-1].text


@pytest.mark.parametrize(
    ("share", "words"),
    [(93.75, "can usually predict"), (25.0, "can sometimes predict"), (0.0, "cannot predict")],
)
def test_predictable_answers(share, words):
    [finding] = traces(a_run(n_wrong=16, foretold=share, answer_entropy=2.7, num_classes=10))
    assert words in finding.head
    assert f"{share * 0.16:.0f} of 16 new answers are" in finding.text
    assert "2.7 bits (0 if all are one class; at most 3.3)" in finding.text
    [finding] = traces(a_run(n_wrong=1, foretold=100.0, answer_entropy=0.0, num_classes=10))
    assert "1 of 1 new answer is" in finding.text
    assert "bits" not in finding.text


def test_images_that_an_earlier_run_made_the_network_forget_have_no_new_answer():
    new = {"label": "a", "before": "a", "after": "b", "state": "forgotten"}
    again = new | {"before": "c"}
    never = again | {"state": "never recognised"}
    run = a_run(
        forget=[new, new, again, again, never],
        **{"n_forgotten": 4, "n_wrong": 5, "foretold": 50.0},
    )
    [finding] = traces(run)
    assert "1 of 2 new answers is" in finding.text
    states = [item["state"] for item in run.images]
    assert (states.count("forgotten"), states.count("never recognised")) == (4, 1)


@pytest.mark.parametrize(
    ("k", "probe", "words"),
    [
        (16, 50.0, "forgotten images less well than other"),
        (16, 93.75, "as well as other images"),
        (200, 100.0, "better than unseen ones"),
        (8, 75.0, "With so few images"),
        (2, 0.0, "With so few images"),
    ],
)
def test_what_is_said_of_the_features(k, probe, words):
    row = {"probe_forget": probe, "probe_forget_before": 100.0, "probe_test": 90.0, "n_probe": 250}
    [finding] = knowledge(a_run(k=k, **row))
    assert words in finding.head
    assert f"{round(k * probe / 100)} of {k} images" in finding.text
    assert "(before: 100.0\u00a0%)" in finding.text
    assert "90.0\u00a0% of 250 unseen images" in finding.text


@pytest.mark.parametrize(
    ("own", "other", "words"),
    [
        (9, 23, "faster"),
        (23, 9, "more slowly"),
        (9, 11, "about as fast"),
        (1, 31, "faster"),
        (31, 31, "Neither"),
    ],
)
def test_what_is_said_of_relearning(own, other, words):
    row = {"relearn_forget": own, "relearn_test": other, "n_relearn": 16, "relearn_limit": 30}
    [finding] = knowledge(a_run(**row))
    assert words in finding.head
    assert ("more than 30 steps" in finding.text) == (31 in (own, other))
    assert ("after 1 step;" in finding.text) == (own == 1)


@pytest.mark.parametrize(
    ("own", "words"), [(12.5, "less often than"), (93.75, "as often as"), (100.0, "as often as")]
)
def test_what_is_said_of_retrieval(own, words):
    row = {"retrieval_forget_r1": own, "retrieval_forget_r1_before": 100.0, "n_audit_retain": 2000}
    row |= {"retrieval_retain_r1": 98.0, "retrieval_retain_map": 91.5, "retrieval_forget_map": 40.5}
    [finding] = knowledge(a_run(**row))
    assert f"finds their class {words} from retained ones" in finding.head
    assert "Of 2,000 retained images" in finding.text
    assert f"{own:.1f}\u00a0% of the forgotten images (before: 100.0\u00a0%)" in finding.text
    assert "is 40.5\u00a0% and 91.5\u00a0%" in finding.text
    more = {"k": 400, "retrieval_forget_r1": 99.0, "retrieval_retain_r1": 90.0}
    [finding] = knowledge(a_run(**row | more))
    assert "more often than from retained ones" in finding.head
    wide = {"k": 8, "retrieval_forget_r1": 12.5, "retrieval_retain_r1": 36.6}
    for few in ({"k": 1}, wide):
        [finding] = knowledge(a_run(**row | few))
        assert "With so few images" in finding.head


def test_what_is_said_of_whole_classes():
    row = {"forgotten_classes": ["cat", "dog"], "acc_test_forgotten_classes": 2.5}
    row |= {"acc_test_forgotten_classes_before": 90.0, "acc_test_kept_classes": 88.0}
    assert whole_classes(a_run(**row)) == [
        "The network recognises 2.5\u00a0% (before: 90.0\u00a0%) of the unseen images of the "
        "forgotten classes, cat and dog, and 88.0\u00a0% of those of all other classes."
    ]
    assert whole_classes(a_run(**row | {"forgotten_classes": None})) == []
    assert whole_classes(a_run(**row | {"acc_test_forgotten_classes": None})) == []
    assert "class, cat, and" in whole_classes(a_run(**row | {"forgotten_classes": ["cat"]}))[0]


def test_what_is_said_of_consistency():
    for low, words in ((0.996, "barely"), (0.95, "a little"), (0.5, "considerably")):
        row = {"consistency": 0.998, "consistency_low": low, "n_audit_retain": 2000}
        [finding] = knowledge(a_run(**row))
        assert words in finding.head
        assert "0.9980 on average over 2,000 retained images" in finding.text


def test_nothing_is_said_of_what_was_not_measured_or_is_damaged():
    assert traces(a_run()) == knowledge(a_run()) == table(a_run()) == saliency(a_run()) == []
    assert confusion(a_run()) is None
    damaged = a_run(attacked(auc="x"), attacked("learned", "retain", m=None), {"attack": 3})
    assert traces(damaged) == table(damaged) == []
    assert not stand_out(damaged)


def test_the_table_of_attacks_has_a_row_for_each_that_was_made():
    rows = table(a_run(attacked("loss"), attacked("learned", when="before", auc=0.6)))
    assert len(rows) == 2
    assert rows[0]["after"]["auc"] == 0.5
    assert rows[0]["before"] is rows[0]["retain"] is None
    assert rows[1]["before"]["auc"] == 0.6


def test_confusion_counts_every_image_in_the_order_of_the_classes():
    forget = [{"label": a, "after": b} for a, b in ["ab", "ab", "aa", "cb"]] + [{"label": "c"}]
    found = confusion(a_run(forget=forget, classes=[{"name": name} for name in "cab"]))
    assert found is not None
    assert found.classes == ["c", "a", "b"]
    assert found.rows == [
        ("c", [("c", 0), ("a", 0), ("b", 1)]),
        ("a", [("c", 0), ("a", 1), ("b", 2)]),
    ]
    assert found.most == 2


def test_of_many_classes_the_most_frequent_pairs_are_listed():
    forget = [{"label": f"a{i}", "after": f"b{i}"} for i in range(30)]
    forget += [{"label": "a7", "after": "b7"}]
    found = confusion(a_run(forget=forget))
    assert found is not None
    assert found.classes == found.rows == []
    assert found.pairs[0] == ("a7", "b7", 2)
    assert (len(found.pairs), found.left) == (20, 10)


def test_a_saliency_image_is_shown_only_if_all_of_it_is_image_data():
    item = {"name": "x", "label": "cat", "image": PNG, "before": PNG, "after": PNG}
    spy = {**item, "after": "https://example.org/x.png"}
    [shown] = saliency(a_run(cams=[item, spy]))
    assert shown["after"]["source"] == PNG


def test_the_interval_of_a_change():
    """As the example of ci.prop.ps in statpsych, the R package by Bonett, has it."""
    z = 1.959964
    assert paired_change(4, 26, 48, z) == pytest.approx((25.48067, 62.51933), abs=1e-4)
    assert paired_change(26, 4, 48, z) == pytest.approx((-62.51933, -25.48067), abs=1e-4)
    assert paired_change(26, 4, 48) == pytest.approx((-62.51933, -25.48067), abs=1e-2)
    assert paired_change(1, 0, 1)[0] == -100


def test_the_interval_of_a_share():
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
