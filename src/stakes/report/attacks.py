"""What somebody who holds the network could still find out, in numbers and in sentences."""

import math

from stakes.report.findings import Finding
from stakes.report.formats import decimals, percent, several
from stakes.report.intervals import wilson
from stakes.report.records import Record, Row, number
from stakes.report.run_folder import RunFolder

ATTACKS = {
    "loss": "How unlikely the network finds its class (loss)",
    "entropy": "How uncertain the answer is (entropy)",
    "modified entropy": "Both combined (modified entropy)",
    "learned": "All three, combined by a learned attack",
    "copies": "How much more probable its class is in altered copies (fewer unseen images)",
}
LEAST = 5  # test images, and retained ones, that an attack needs: one for each of its folds
FALSE_ALARMS = 0.01  # at which single images count as found
MUCH = 0.75  # an AUC from which an attack says much; of negated scores, below 1 - MUCH


def attack(run: RunFolder, name: str, of: str, when: str) -> Row | None:
    """What the evidence says of one attack; None where it was not made."""
    for record in run.audit.get("membership", []):
        if (record.get("attack"), record.get("of"), record.get("when")) == (name, of, when):
            numbers = {key: number(record.get(key)) for key in ("auc", "low", "high", "m", "n")}
            if None not in numbers.values():
                found = {key: number(record.get(key)) for key in ("found", "unlikely")}
                return Row(numbers | found)
    return None


def unmade(run: RunFolder) -> str:
    """Why no attack by loss was made."""
    sizes = [run.number(key) for key in ("n_audit_test", "n_audit_retain")]
    test, retain = (0 if size is None else size for size in sizes)
    if not (test and retain):
        return "It needs test and retained images (--data)."
    if min(test, retain) >= LEAST:
        return "The attack on test and retained images failed."
    return (
        f"It needs at least {LEAST} test and {LEAST} retained images; there were {test:,.0f} and "
        f"{retain:,.0f}."
    )


def table(run: RunFolder) -> list[Record]:
    """The table of attacks: on retained images now, on forget images before and now."""
    columns = {"retain": ("retain", "after"), "before": ("forget", "before")}
    columns["after"] = ("forget", "after")
    rows = [
        {"words": words, **{key: attack(run, name, *at) for key, at in columns.items()}}
        for name, words in ATTACKS.items()
    ]
    return [row for row in rows if any(row[key] for key in columns)]


def traces(run: RunFolder) -> list[Finding]:
    """What somebody who holds the network, and an image, could still find out."""
    found = [
        _leaky(run), _membership(run), _contrast(run), _false_alarms(run), _predictable(run)
    ]  # fmt: skip
    return [finding for finding in found if finding is not None]


def stand_out(run: RunFolder) -> bool:
    """Whether the forget images are now less likely to the network than unseen ones."""
    loss = attack(run, "loss", "forget", "after")
    return loss is not None and loss["high"] < 0.5


def brief(found: Row) -> str:
    """An AUC with its interval, for a table."""
    auc, low, high = (decimals(found[key]) for key in ("auc", "low", "high"))
    return f"AUC {auc} ({low}\u2013{high})"


def unclear(found: Row) -> bool:
    """Whether images are too few to tell no difference, an AUC of 0.5, from a great one."""
    return bool(found["low"] <= 1 - MUCH or found["high"] >= MUCH)


def _leaky(run: RunFolder) -> Finding | None:
    learned = attack(run, "learned", "retain", "after")
    if learned is None:
        return None
    auc, found = learned["auc"], learned["found"]
    singles = found is not None and _beyond_chance(found / 100, learned["m"], learned["n"])
    more = ""
    if learned["low"] <= 0.5 and not singles:
        head = "Its answers reveal nothing measurable about its other training data."
        more = " So the learned attack says nothing about the forgotten images either."
    else:
        much = "little" if auc < 0.6 else "something" if auc < MUCH else "much"
        head = f"Its answers reveal {much} about its other training data."
    text = (
        f"An attack tells retained training images from unseen ones with {_interval(learned)}, "
        f"{learned['m']:,.0f} against {learned['n']:,.0f}."
    )
    if found is not None:
        text += (
            f" At a false-alarm rate of 1\u00a0%, it identifies {percent(found)} of "
            "them; chance would give 1\u00a0%."
        )
    return Finding(head, text + more)


def _beyond_chance(found: float, m: float, n: float) -> bool:
    """Whether more of m images are found than a false-alarm rate that n images set explains."""
    return wilson(found, m)[0] > wilson(FALSE_ALARMS, n)[1]


def _membership(run: RunFolder) -> Finding | None:
    after, before = (attack(run, "loss", "forget", when) for when in ("after", "before"))
    if after is None:
        return None
    was = "" if before is None else f"; before, it was {decimals(before['auc'])}"
    numbers = f"By the loss: {_interval(after)}{was}. {several(after['m'], 'image')} against "
    numbers += f"{after['n']:,.0f} unseen ones."
    if run.row["forgotten_classes"]:
        numbers += " A network that never saw these classes would be near 0."
        if stand_out(run):
            return Finding("The images stand out as unlikely, as whole classes should.", numbers)
    else:
        numbers += " A network that never saw them would give about 0.50."
    if stand_out(run):
        return Finding(
            "Detectable: the network is now unusually wrong about these images.",
            f"{numbers} Someone who has one of them and knows its class can suspect that the "
            "network was made to forget it.",
        )
    if after["low"] > 0.5:
        return Finding(
            "The images still look like images that the network was trained on.", numbers
        )
    head = "Judged by their loss, the images look like unseen ones."
    if unclear(after):
        head = "With so few images, it is uncertain whether their loss tells them apart."
    return Finding(head, f"{numbers} Nothing within the interval can be excluded.")


def _contrast(run: RunFolder) -> Finding | None:
    found = attack(run, "copies", "forget", "after")
    if found is None:
        return None
    head = "Altered copies do not give the images away."
    if found["low"] > 0.5:
        head = "Detectable by altered copies: they still look like the class that the images lost."
    elif unclear(found):
        head = "With so few images, it is uncertain whether altered copies give them away."
    return Finding(
        head,
        "Compared by how much more probable the class is in altered copies of an image than in the "
        f"image: {_interval(found)}. {several(found['m'], 'image')} against {found['n']:,.0f} "
        "unseen ones.",
    )


def counted(found: Row | None, key: str) -> int:
    """How many images a percentage among the numbers of an attack is; 0 where not measured."""
    return 0 if found is None else round(found["m"] * (found[key] or 0) / 100)


def _false_alarms(run: RunFolder) -> Finding | None:
    learned, loss = (attack(run, name, "forget", "after") for name in ("learned", "loss"))
    if learned is None or loss is None or learned["found"] is None or loss["unlikely"] is None:
        return None
    k, copies = int(learned["m"]), attack(run, "copies", "forget", "after")
    members, unlikely, altered = (
        counted(learned, "found"), counted(loss, "unlikely"), counted(copies, "found")
    )  # fmt: skip
    most = max(members, unlikely, altered)
    many = "no single image" if not most else "some images" if 2 * most < k else "many images"
    many = "the image" if most and k == 1 else many
    by = "by these attacks" if copies else "by its answer alone"
    more = f"; altered copies would identify {altered:,}" if copies else ""
    return Finding(
        f"At a false-alarm rate of 1\u00a0%, {many} would be identified {by}.",
        f"{members:,} of {several(k, 'image')} would be taken for training images (learned "
        f"attack), and {unlikely:,} would stand out as less likely than 99\u00a0% of "
        f"{loss['n']:,.0f} unseen images (loss){more}.",
    )


def _predictable(run: RunFolder) -> Finding | None:
    wrong, share = run.new_answers, run.number("foretold")
    if not wrong or share is None:
        return None
    second = round(wrong * share / 100)
    often = "can usually" if share > 50 else "can sometimes" if second else "cannot"
    text = (
        f"{second:,} of {several(wrong, 'new answer')} {'is' if second == 1 else 'are'} the "
        "original network's second choice."
    )
    spread, classes = run.number("answer_entropy"), run.number("num_classes")
    if spread is not None and classes and wrong > 1:
        most = math.log2(min(wrong, classes))
        text += (
            f" The wrong answers spread over {spread:.1f} bits "
            f"(0 if all are one class; at most {most:.1f})."
        )
    return Finding(f"Anyone with the original network {often} predict the new answer.", text)


def _interval(found: Row) -> str:
    auc, low, high = (decimals(found[key]) for key in ("auc", "low", "high"))
    return f"an AUC of {auc} (95\u00a0% interval {low} to {high})"
