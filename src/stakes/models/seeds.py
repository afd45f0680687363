"""What a seed may be."""

from typing import Any

from stakes.errors import InputError, quoted


def check_seed(seed: Any) -> None:
    """Refuse what cannot seed a generator.

    Raises:
        InputError: it is no whole number from 0 to 2^63 - 2.

    >>> check_seed(0)
    """
    if type(seed) is not int or not 0 <= seed < 2**63 - 1:
        raise InputError(f"--seed {quoted(seed)}: give a whole number from 0 to 2^63 - 2")
