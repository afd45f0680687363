"""What the measures beyond accuracy say, in sentences for whoever asked for the forgetting."""

from typing import NamedTuple

from stakes.errors import some
from stakes.report.formats import listed, percent, several
from stakes.report.intervals import wilson
from stakes.report.run_folder import WHOLE_CLASSES, RunFolder

FEW = 5  # images below which no conclusion is drawn from a share
APART = 10.0  # points between two shares from which on they are not called alike


class Finding(NamedTuple):
    """A conclusion, and the numbers it rests on."""

    head: str
    text: str


def earlier_requests(run: RunFolder) -> tuple[str, bool]:
    """What became of images that earlier runs made the network forget, and whether to doubt it.

    An empty sentence where there are none besides those of this run.
    """
    keys = ("n_earlier", "n_earlier_again", "n_earlier_found", "n_earlier_recognised")
    all_, again, found, back = (int(run.number(key) or 0) for key in keys)
    others = all_ - again
    if not others:
        return "", False
    whose = f"{several(others, 'image')} of earlier requests"
    if not found:
        return (
            f"Whether the {whose} are still forgotten was not measured: none of them is in the "
            "training data (--data).",
            True,
        )
    seen = f"Of the {whose}, {found:,} {'is' if found == 1 else 'are'} in the training data; "
    if not back:
        return f"{seen}none of these is recognised again.", False
    return (
        f"{seen}{back:,} of these {'is' if back == 1 else 'are'} recognised again. Forget them "
        "once more, together with the images of this run.",
        True,
    )


def knowledge(run: RunFolder) -> list[Finding]:
    """What is left beneath the answers: features, retrieval, relearning, consistency, reference."""
    found = [_features(run), _retrieval(run), _relearning(run), _consistency(run), _reference(run)]
    return [finding for finding in found if finding is not None]


def _features(run: RunFolder) -> Finding | None:
    known, unseen = run.number("probe_forget"), run.number("probe_test")
    before, n = run.number("probe_forget_before"), run.number("n_probe")
    if known is None or unseen is None or run.k is None or not n:
        return None
    low, high = wilson(known / 100, run.k)
    if _unclear(known, unseen, run.k):
        head = "With so few images, it is uncertain what the features still identify."
        more = "If the share is as high as that of unseen images, mainly the last layer changed."
    elif high < unseen / 100:
        head = "The features identify the forgotten images less well than other images."
        more = "The change therefore reaches below the last layer"
        more += "." if known < 10 else ", but a new last layer would still recognise some."
    elif low > unseen / 100:
        head = "The features still identify the forgotten images better than unseen ones."
        more = "The network’s last layer hides what the layers below it still hold."
    else:
        head = "The features identify the forgotten images as well as other images."
        more = "A new last layer would recognise them again: mainly the last layer has changed."
    was = "" if before is None else f" (before: {percent(before)})"
    text = (
        f"A new last layer, fitted to test images, classifies {round(run.k * known / 100):,} of "
        f"{several(run.k, 'image')} correctly, {percent(known)}{was}, and {percent(unseen)} of "
        f"{n:,.0f} unseen images."
    )
    return Finding(head, f"{text} {more}")


def _retrieval(run: RunFolder) -> Finding | None:
    own, other = run.number("retrieval_forget_r1"), run.number("retrieval_retain_r1")
    gallery = run.number("n_audit_retain")
    if own is None or other is None or run.k is None or not gallery:
        return None
    low, high = wilson(own / 100, run.k)
    often = "less" if high < other / 100 else "more" if low > other / 100 else "as"
    end = "as from retained ones" if often == "as" else "than from retained ones"
    forgotten, retained = (run.number(f"retrieval_{of}_map") for of in ("forget", "retain"))
    head = f"Similarity search from forgotten images finds their class {often} often {end}."
    if _unclear(own, other, run.k):
        head = "With so few images, it is uncertain how often similarity search finds their class."
    return Finding(
        head,
        f"Of {gallery:,.0f} retained images, the one with the nearest features is of its class "
        f"for {percent(own)} of the forgotten images{_was(run, 'retrieval_forget_r1')} and for "
        f"{percent(other)} of the retained ones{_was(run, 'retrieval_retain_r1')}; over the whole "
        f"ranking, mean average precision is {percent(forgotten)} and {percent(retained)}. A "
        "forgotten image that still finds its class still sits with it: only the answer changed.",
    )


def _unclear(own: float, other: float, k: int) -> bool:
    """Whether k images are too few to tell their share from another, or to call both alike."""
    low, high = wilson(own / 100, k)
    return k < FEW or (low <= other / 100 <= high and abs(own - other) > APART)


def _was(run: RunFolder, key: str) -> str:
    before = run.number(f"{key}_before")
    return "" if before is None else f" (before: {percent(before)})"


def _reference(run: RunFolder) -> Finding | None:
    gap, alike = run.number("reference_gap"), run.number("reference_agreement_test")
    agreed, bits = run.number("reference_agreement_forget"), run.number("reference_kl_forget")
    if gap is None or agreed is None or bits is None:
        return None
    tested = "" if alike is None else f", and {percent(alike)} of test images"
    return Finding(
        f"Its accuracies are {gap:.1f} points from the reference's on average.",
        f"The reference is another network, such as one trained without the images. Both answer "
        f"{percent(agreed)} of the images to forget alike{_was(run, 'reference_agreement_forget')}"
        f"{tested}{_was(run, 'reference_agreement_test') if tested else ''}. The answers on images "
        f"to forget are {bits:.2f} bits of KL divergence from the reference's.",
    )


def whole_classes(run: RunFolder) -> list[str]:
    """Accuracy on unseen images, where whole classes were to be forgotten."""
    names, keys = run.row["forgotten_classes"], tuple(WHOLE_CLASSES)
    shares = [run.number(key) for key in keys]
    if not isinstance(names, list) or None in shares:
        return []
    own, others = (f"{percent(run.number(key))}{_was(run, key)}" for key in keys)
    noun = "class" if len(names) == 1 else "classes"
    return [
        f"The network recognises {own} of the unseen images of the forgotten {noun}, "
        f"{listed([str(n) for n in names])}, and {others} of those of all other classes."
    ]


def given_twice(run: RunFolder) -> list[str]:
    """How many of the images that were given are copies of others."""
    copies = run.number("n_copies_left_out")
    if not copies or run.k is None:
        return []
    are, count = ("is a copy", "counts") if copies == 1 else ("are copies", "count")
    others = "another" if copies == 1 else "others"
    given = several(run.k + copies, "image")
    return [f"Of the {given} given, {copies:,.0f} {are} of {others} and {count} once."]


def found_in_data(run: RunFolder) -> list[str]:
    """Which images are in the training data, and which near-duplicates were left out."""
    exact, near = run.number("n_found_exact"), run.number("n_found_near")
    left, sentences = run.number("n_near_left_out"), list[str]()
    if exact is not None and near is not None:
        sentences.append(_found(run.k, exact, near))
    if left:
        names = [str(item.get("found")) for item in run.audit.get("duplicates", [])]
        which = f" ({some(names, 4)})" if names else ""
        noun = several(left, "training image")
        are, them = ("is a near-duplicate", "it") if left == 1 else ("are near-duplicates", "them")
        sentences.append(
            f"{noun}{which} {are} of images to forget and left out: no method was trained on "
            f"{them}, and no accuracy measured."
        )
    return sentences


def _found(k: int | None, exact: float, near: float) -> str:
    """How many images are in the training data, and how."""
    both, data = exact + near, "in the training data that was given"
    if k == 1:
        how = "pixel by pixel" if exact else "as a near-duplicate"
        return f"The image is {data}, {how}." if both else f"The image is not {data}."
    are = "is" if both == 1 else "are"
    how = f"{exact:,.0f} pixel by pixel, {near:,.0f} as near-duplicates"
    return f"{both:,.0f} of the {several(k or 0, 'image')} {are} {data}: {how}."


def _relearning(run: RunFolder) -> Finding | None:
    own, other = run.number("relearn_forget"), run.number("relearn_test")
    count, limit = run.number("n_relearn"), run.number("relearn_limit")
    if own is None or other is None or count is None or limit is None:
        return None

    def steps(value: float) -> str:
        return f"more than {limit:.0f} steps" if value > limit else several(value, "step")

    if own > limit and other > limit:
        head = "Neither forgotten nor other images are learned within the limit."
    elif 1.5 * own <= other:
        head = "The forgotten images are relearned faster than others are learned."
    elif 1.5 * other <= own:
        head = "The forgotten images are relearned more slowly than others are learned."
    else:
        head = "The forgotten images are relearned about as fast as others are learned."
    text = (
        f"Trained on {several(count, 'forgotten image')}, the network recognises nine in ten again "
        f"after {steps(own)}; trained on as many misclassified test images, after {steps(other)}. "
        "A much smaller first number means that something of the forgotten images is left. Each is "
        "a single attempt, so the measure is rough."
    )
    return Finding(head, text)


def _consistency(run: RunFolder) -> Finding | None:
    mean, low, n = (run.number(key) for key in ("consistency", "consistency_low", "n_audit_retain"))
    if mean is None or low is None or n is None:
        return None
    much = "barely changed"
    if low <= 0.99:
        much = "changed a little" if low > 0.9 else "changed considerably"
    return Finding(
        f"Its view of the retained images has {much}.",
        f"The cosine between the features of the same image before and after is {mean:.4f} on "
        f"average over {n:,.0f} retained images, and below {low:.4f} for one in twenty; 1 means "
        "unchanged.",
    )
