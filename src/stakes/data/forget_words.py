"""What ``--forget`` says, as a forget set."""

from collections.abc import Sequence
from typing import Any

from stakes.data.forget import ForgetSet
from stakes.data.images import Images
from stakes.errors import InputError, shortened
from stakes.preprocessing import Reader
from stakes.texts import expanded


def parse_forget(
    text: str,
    images: Images | None,
    class_names: Sequence[str],
    seed: int = 0,
    size: int | None = None,
    *,
    max_bytes: int | None = None,
    read: Reader | None = None,
) -> ForgetSet:
    """Read what ``--forget`` says: a folder of class folders, a CSV table, or a word.

    The words draw from the training set: ``random:64``, ``classes:cat,dog``, ``classes:10%``.

    With a training set, files are brought to exactly the size of its images, whatever ``size``
    says, so that :func:`stakes.data.retain.found_again` recognises them there. With ``read`` (see
    ImageFiles) that set has to have been loaded with the same reader.

    Raises:
        InputError: anything else, a label outside the classes, or what the constructors of
            ForgetSet raise.
    """
    word, _, rest = text.partition(":")
    if draws(text):
        forget = _drawn(text, word, rest.strip(), images, class_names, seed, max_bytes)
    else:
        exact = images is not None and read is None
        if images is not None and read is None:
            size = images.load([0]).shape[-1]
        options: dict[str, Any] = {"exact": exact, "max_bytes": max_bytes, "read": read}
        if expanded(text).is_dir():
            forget = ForgetSet.from_folder(text, class_names, size, **options)
        elif text.lower().endswith(".csv"):
            forget = ForgetSet.from_csv(text, class_names, size, **options)
        else:
            what = "neither a folder nor a .csv" if expanded(text).exists() else "no such folder"
            raise InputError(
                f"--forget {text}: {what}; give a folder with <class>/*.png, "
                "a .csv file with path,label, random:64, classes:cat,dog or classes:10%"
            )
    forget.check(len(class_names))
    return forget


def draws(text: str) -> bool:
    """Whether ``--forget`` says a draw from the training set, and not what lies somewhere.

    >>> draws("random:64"), draws("random")
    (True, False)
    """
    return text.startswith(("random:", "classes:"))


def _drawn(
    text: str,
    word: str,
    rest: str,
    images: Images | None,
    class_names: Sequence[str],
    seed: int,
    max_bytes: int | None,
) -> ForgetSet:
    """Images of the training set, by their number or by their classes."""
    if images is None:
        raise InputError(f"--forget {text}: this draws from the training set; add --data")
    if word == "classes":
        return ForgetSet.from_classes(images, rest, class_names, seed, max_bytes=max_bytes)
    if rest.isdecimal() and len(rest) < 10:
        return ForgetSet.random(images, int(rest), seed, max_bytes=max_bytes)
    raise InputError(f"--forget {shortened(text)}: expected a number, such as random:64")
