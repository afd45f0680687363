"""Intervals of shares: of one, and of the change between two on the same images."""

import math

Z = 1.96  # of 95 %


def wilson(share: float, n: float, z: float = Z) -> tuple[float, float]:
    """Interval of a share of n images (Wilson 1927); 95 % with the default ``z``.

    >>> [round(end, 2) for end in wilson(0.0, 16)]
    [0.0, 0.19]
    """
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_change(lost: float, gained: float, n: float, z: float = Z) -> tuple[float, float]:
    """Interval of the change of accuracy, in points; 95 % with the default ``z``.

    Both networks were scored on the same n images, so that only those count on which they differ
    (Bonett and Price 2012: an image is added to each of the two, and two to n).

    Args:
        lost: images that only the network before gets right.
        gained: images that only the network after gets right.
        n: images scored.
        z: how wide it is.

    >>> [round(end, 2) for end in paired_change(12, 6, 2000)]
    [-0.74, 0.14]
    """
    less, more = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    half = z * math.sqrt((less + more - (more - less) ** 2) / (n + 2))
    return 100 * max(-1.0, more - less - half), 100 * min(1.0, more - less + half)
