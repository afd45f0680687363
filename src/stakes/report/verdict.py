"""The outcome of one run in plain words: a heading, and four questions with their answers."""

from dataclasses import dataclass, field
from typing import NamedTuple

from stakes.report import attacks, findings
from stakes.report.formats import NOT_MEASURED, decimals, percent, points, several, share
from stakes.report.intervals import paired_change
from stakes.report.run_folder import RunFolder
from stakes.rows import Outcome

LOSS, DAMAGE = 2.0, 10.0  # points of accuracy: worth saying; the network is damaged
# Of the runs kept in this project's benchmarks, three in four with a drift from MOVED to BROKEN and
# nearly all beyond had lost DAMAGE or more (the table in docs/measures.md).
GUESSING = 1.2  # times the accuracy of a blind guess, below which a network works no better
MOVED, BROKEN = 0.3, 0.5
SPARED = 100 / 12  # percent of copies recognised up to which most are forgotten

GOOD, CAUTION, BAD, UNKNOWN = "good", "caution", "bad", "unknown"
MARKS = {GOOD: "\u2713", CAUTION: "!", BAD: "\u2717", UNKNOWN: "?"}
CAUSES = (
    "Likely causes: the classes are in a different order from the network’s outputs, the images "
    "are normalised or preprocessed differently than in training, or the weights are not the "
    "trained ones."
)


class Answer(NamedTuple):
    """One of the four questions: its tone, the answer in a few words, and what it rests on."""

    tone: str
    question: str
    answer: str
    detail: str

    @property
    def mark(self) -> str:
        """The tone as a sign, for those who cannot see colours."""
        return MARKS[self.tone]


@dataclass
class Verdict:
    """The outcome in plain words; ``tone`` is good, caution, bad or unknown."""

    tone: str
    headline: str
    lead: str = ""
    answers: list[Answer] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)


def verdict(run: RunFolder) -> Verdict:
    """Say whether the images are forgotten, what it cost, and what to doubt.

    It is good only where all four questions were measured and answered well.
    """
    answers = [images(run), copies(run), rest(run), traces(run)]
    forgotten, others = answers[0], answers[1:]
    if forgotten.tone in (BAD, UNKNOWN):
        tone = forgotten.tone
    elif others[1].tone == BAD:
        tone = BAD
    else:
        fine = all(answer.tone == GOOD for answer in answers)
        tone = GOOD if fine else CAUTION
    found = Verdict(tone, _headline(run, answers), _lead(run, answers), answers)
    found.warnings = doubts(run)
    found.facts = [
        *findings.given_twice(run), *findings.whole_classes(run), *findings.found_in_data(run)
    ]  # fmt: skip
    sentence, doubtful = findings.earlier_requests(run)
    if sentence:
        (found.warnings if doubtful else found.facts).append(sentence)
    if found.warnings and tone == GOOD:
        found.tone = CAUTION
    return found


def mostly_unknown(run: RunFolder) -> bool:
    """Whether most of the images were never recognised, so that there was little to forget."""
    states = run.states
    return states is not None and 2 * states.never > states.all


def images(run: RunFolder) -> Answer:
    """Are the exact images forgotten, and how deep?"""
    one = run.k == 1
    question = "Is the exact image forgotten?" if one else "Are the exact images forgotten?"
    states = run.states
    if states is None:
        return Answer(UNKNOWN, question, "Not measured", "No answer of the network was recorded.")
    never = f"{states.never:,} of {states.all:,} never recognised" if states.never else ""
    if bare := run.count("acc_forget_bare"):
        detail = f"Without the list in front of it, the network recognises {bare:,} of {run.k:,}."
        return Answer(BAD, question, "No, a list hides them", detail)
    if mostly_unknown(run):
        return Answer(BAD, question, never.capitalize(), "Only an image that was recognised before "
                      "can be forgotten.")  # fmt: skip
    if states.recognised:
        left = f"No, {states.recognised:,} of {states.all:,} still recognised"
        return Answer(BAD, question, left, never and f"{never}.")
    done = f"Yes, {states.forgotten:,} of {states.all:,}"
    detail = " ".join(part for part in (never and f"{never}.", _deep(run)) if part)
    return Answer(CAUTION if states.never else GOOD, question, done, detail)


def _deep(run: RunFolder) -> str:
    """How strongly the images are still tied to their class."""
    most, second = run.number("forget_true_probability_max"), run.count("forget_top2")
    if most is None or second is None or run.k is None:
        return "The probability of the true class was not measured."
    near = f"it is the second choice for {second:,} of {run.k:,}"
    if run.k == 1:
        near = "it is the second choice" if second else "it is not even the second choice"
    elif not second:
        near = "it is not even the second choice for any of them"
    gets = f"of up to {percent(most)}" if most >= 0.05 else "below 0.1\u00a0%"
    return f"The true class has a probability {gets} (chart); {near}."


def copies(run: RunFolder) -> Answer:
    """Are altered copies of the images forgotten?"""
    question = "Are altered copies forgotten?"
    known, flipped, was = (
        run.number(key) for key in ("forget_views", "forget_flip", "forget_views_before")
    )
    if known is None:
        return Answer(UNKNOWN, question, "Not measured", "Copies may still be recognised.")
    count = run.count("forget_flip")
    sentences = []
    if flipped is not None and count is not None:
        sentences.append(f"Mirrored: {count:,} of {run.k:,} recognised.")
    if was is not None:
        sentences.append(f"All kinds: {percent(was)} before.")
    if mostly_unknown(run) and was is not None and was <= SPARED:
        return Answer(UNKNOWN, question, "Hardly recognised before", " ".join(sentences))
    if known == 0:
        return Answer(GOOD, question, "Yes, in all kinds tried", " ".join(sentences))
    if known <= SPARED:
        answer = f"Mostly, {percent(known)} still recognised"
        return Answer(CAUTION, question, answer, " ".join(sentences))
    if run.row["method_criterion"] in ("exact", "deep"):
        sentences.append("Only --criterion views makes a run forget copies too.")
    return Answer(BAD, question, f"No, {percent(known)} still recognised", " ".join(sentences))


def rest(run: RunFolder) -> Answer:
    """Does the rest still work?"""
    question = "Does the rest still work?"
    changes = run.preserved
    if not changes:
        detail = "There were no other images to score, so the cost is unknown (--data)."
        drift = run.number("drift_probes")
        if drift is not None and drift >= MOVED:
            return Answer(BAD, question, "Not measured, most likely not", f"{detail} {_drift(run)}")
        return Answer(UNKNOWN, question, "Not measured", detail)
    detail = " ".join(_change(run, key) for key in changes)
    classes, most = run.number("num_classes"), max(run.row[f"{key}_before"] for key in changes)
    if classes and most < GUESSING * 100 / classes:
        return Answer(UNKNOWN, question, "It did not work before", detail)
    telling = {key: change for key, change in changes.items() if not _too_few(run, key)}
    if not telling:
        return Answer(UNKNOWN, question, "Too few images to tell", detail)
    loss = -min(telling.values())
    if loss >= DAMAGE:
        return Answer(BAD, question, f"No, {loss:.1f} points lost", detail)
    if any(key.startswith("acc_test") for key in changes.keys() - telling.keys()):
        return Answer(UNKNOWN, question, "Too few test images to tell", detail)
    if loss >= LOSS:
        return Answer(CAUTION, question, f"Mostly, {loss:.1f} points lost", detail)
    return Answer(GOOD, question, "Yes", detail)


SETS = {
    "acc_test": ("Test images", "n_test"),
    "acc_test_kept_classes": ("Test images of the other classes", "n_test_kept_classes"),
    "acc_retain": ("Retained images", "n_retain"),
}


def _change(run: RunFolder, key: str) -> str:
    """One accuracy before and after, with the interval of its change."""
    words, size = SETS[key]
    before, after = run.number(f"{key}_before"), run.number(key)
    n, found = run.number(size), interval(run, key)
    text = f"{words}: {share(before)} \u2192 {percent(after)}"
    if n:
        text = f"{n:,.0f} {text[0].lower()}{text[1:]}"
    if found is None:
        return f"{text}."
    low, high = found
    chance = ", within chance" if low <= 0 <= high else ""
    return f"{text} (95\u00a0% interval of the change: {points(low)} to {points(high)}{chance})."


def interval(run: RunFolder, key: str) -> tuple[float, float] | None:
    """The paired 95 % interval of the change of an accuracy, in points; None if not recorded."""
    size = SETS[key][1]
    lost, gained, n = (run.number(name) for name in (f"{size}_lost", f"{size}_gained", size))
    return None if lost is None or gained is None or not n else paired_change(lost, gained, n)


def _too_few(run: RunFolder, key: str) -> bool:
    """Whether a set has too few images to tell an unchanged network from a damaged one."""
    ends = interval(run, key)
    return ends is not None and ends[0] <= -DAMAGE and ends[1] >= 0


def _drift(run: RunFolder) -> str:
    drift = run.number("drift_probes") or 0.0
    share = "nearly all" if drift >= BROKEN else "most"
    moved = f"The structural drift of its features is {decimals(drift)} (0 is unchanged)"
    return f"{moved}; with as much drift, {share} networks lost {DAMAGE:.0f} points or more."


def traces(run: RunFolder) -> Answer:
    """Could someone tell that it was done?"""
    question = "Could someone tell it was done?"
    loss = attacks.attack(run, "loss", "forget", "after")
    if loss is None:
        return Answer(UNKNOWN, question, "Not measured", attacks.unmade(run))
    copies = attacks.attack(run, "copies", "forget", "after")
    detail = attacks.brief(loss)
    if copies is not None:
        detail = f"By the loss, {detail}; by altered copies, {attacks.brief(copies)}"
    if run.row["forgotten_classes"]:
        detail += "; by the loss, a network that never saw these classes would be near 0."
    else:
        detail += "; 0.50 would be ideal."
    k = int(loss["m"])
    if found := max(attacks.counted(loss, "unlikely"), attacks.counted(copies, "found")):
        detail += f" {found:,} of {k:,} {'stands' if found == 1 else 'stand'} out individually."
    if 2 * found >= k:
        return Answer(CAUTION, question, "Yes, one by one" if k > 1 else "Yes", detail)
    if loss["high"] < 0.5 or (copies is not None and copies["low"] > 0.5):
        return Answer(CAUTION, question, "Yes, as a group", detail)
    if loss["low"] > 0.5:
        return Answer(CAUTION, question, "They look like training images", detail)
    if any(attacks.unclear(each) for each in (loss, copies) if each is not None):
        return Answer(UNKNOWN, question, "Too few images to tell", detail)
    tried = "Not by their loss" if copies is None else "Not by these attacks"
    return Answer(GOOD, question, tried, detail)


def _headline(run: RunFolder, answers: list[Answer]) -> str:
    states, k = run.states, run.k
    if states is None or k is None:
        return "Whether the images are still recognised was not measured."
    if bare := run.count("acc_forget_bare"):
        head = "Nothing was forgotten: without the list in front of it, the network "
        return f"{head}recognises {bare:,} of {k:,} images."
    if mostly_unknown(run):
        who = "The image was" if k == 1 else f"{states.never:,} of {k:,} images were"
        return f"{who} never recognised: there was little to forget."
    if states.recognised:
        return f"Incomplete: {_of(states.recognised, k).lower()} still recognised."
    said = "The image is" if k == 1 else f"The {k:,} images are"
    if states.never:
        said = f"{_of(states.forgotten, k)} forgotten, {states.never:,}"
        return f"{said} {'was' if states.never == 1 else 'were'} never recognised."
    _, copies_tone, rest_tone, traces_tone = (answer.tone for answer in answers)
    if rest_tone == BAD:
        end = "but the network is damaged."
        if not run.preserved:
            end = "but the network is most likely damaged."
        return f"{said} no longer recognised, {end}"
    said += " no longer recognised."
    if copies_tone == BAD:
        return f"{said} Altered copies of {'it' if k == 1 else 'them'} still are."
    if rest_tone == UNKNOWN:
        return f"{said} The cost is unknown."
    if copies_tone == UNKNOWN:
        return f"{said} Altered copies were not tried."
    if rest_tone == CAUTION:
        return f"{said} The rest works less well."
    if traces_tone != GOOD:
        return f"{said} The rest still works."
    return f"{said} Nor are altered copies, and the rest still works."


def _of(count: int, k: int) -> str:
    if k == 1:
        return "The image is"
    return f"{count:,} of {k:,} images {'is' if count == 1 else 'are'}"


def _lead(run: RunFolder, answers: list[Answer]) -> str:
    if answers[0].tone == UNKNOWN:
        return "The run recorded no answers on these images."
    if mostly_unknown(run):
        return f"This result says nothing about forgetting. {CAUSES}"
    if answers[0].tone == BAD:
        them = "it" if run.k == 1 else "them"
        return f"Do not put this network into service as one that has forgotten {them}."
    if answers[2].tone == BAD:
        return "Do not put this network into service."
    return "Not recognised is not erased: do not describe this as deletion of all traces."


def doubts(run: RunFolder) -> list[str]:
    """What a reader must know beside the answers, one sentence each."""
    found = []
    if run.cut_short:
        reason = str(run.row["stop_reason"])
        found.append(f"The run was cut short: {reason.partition(': ')[2] or reason}.")
    if Outcome.of(run.row) is Outcome.COMPLETE and run.states and run.states.recognised:
        left = several(run.states.recognised, "image")
        are = "is" if run.states.recognised == 1 else "are"
        found.append(f"The method did all its steps, but {left} {are} still recognised.")
    drift = run.number("drift_probes")
    if drift is not None and drift >= BROKEN:
        found.append(_drift(run))
    seen = run.number("surrogates_in_test")
    if seen:
        found.append(f"The surrogate data included {seen:,.0f} of the test images.")
    if run.row["method_criterion"] == "views":
        known = run.number("forget_views")
        words = NOT_MEASURED if known is None else f"{percent(known)} still recognised"
        if known != 0:
            found.append(f"Altered copies were to be forgotten too: {words}.")
    return found
