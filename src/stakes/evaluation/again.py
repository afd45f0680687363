"""Which forget images are in the training data, exactly or as near-duplicates."""

from collections.abc import Mapping
from typing import Any

from stakes.data.forget import ForgetSet
from stakes.data.images import Images
from stakes.data.retain import Drawn


def found_in_data(forget: ForgetSet, drawn: Drawn | None) -> dict[str, int | None]:
    """Count the forget images found in the training data; None where it was not searched.

    Returns:
        ``n_searched``: training images compared. ``n_near_left_out``: those left out as
        near-duplicates. ``n_found_exact`` and ``n_found_near``: forget images found pixel by pixel,
        and as near-duplicates only; None if they were taken from the training data by index.
    """
    if drawn is None:
        return dict.fromkeys(("n_searched", "n_near_left_out", "n_found_exact", "n_found_near"))
    near = [pair for pair in drawn.left_out if not pair.exact]
    exactly = {pair.of for pair in drawn.left_out if pair.exact}
    searched_for = forget.indices is None
    return {
        "n_searched": drawn.searched,
        "n_near_left_out": len(near),
        "n_found_exact": len(exactly) if searched_for else None,
        "n_found_near": len({pair.of for pair in near} - exactly) if searched_for else None,
    }


def duplicates(
    forget: ForgetSet, images: Images | None, drawn: Drawn | None
) -> list[dict[str, Any]]:
    """The near-duplicates that were left out, nearest first, as records of the evidence."""
    if images is None or drawn is None:
        return []
    near = [pair for pair in drawn.left_out if not pair.exact]
    return [
        {
            "name": forget.names[pair.of],
            "found": images.name(pair.among),
            "distance": round(pair.distance, 4),
        }
        for pair in sorted(near, key=lambda pair: (pair.distance, pair.among))
    ]


def found_in_words(row: Mapping[str, Any]) -> str:
    """How many forget images were found, in a sentence; empty if they were not searched for.

    >>> found_in_words({"k": 16, "n_found_exact": 10, "n_found_near": 2, "n_near_left_out": 3})
    '12 of 16 forget images found in --data (10 exact, 2 near-duplicates)'
    """
    exact, near, left = (row[f"n_{key}"] for key in ("found_exact", "found_near", "near_left_out"))
    if exact is not None and near is not None:
        found = f"{exact + near} of {row['k']} forget images found in --data"
        return f"{found} ({exact} exact, {near} near-duplicate{'s' * (near != 1)})"
    if left:
        return f"{left} near-duplicate{'s' * (left != 1)} of forget images left out of --data"
    return ""
