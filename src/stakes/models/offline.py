"""Nothing is fetched and nothing sent, whatever a configuration in a received folder names."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stakes.errors import InputError


@contextmanager
def offline() -> Iterator[None]:
    """Keep the model hub's library from the network, and the user's token from the hub.

    The library reads its environment variable once, when it is imported; so its own switch is
    turned, and back at the end.
    """
    try:
        from huggingface_hub import constants
    except ImportError:  # timm needs it, so only without timm
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def check_names_no_hub(content: Any, where: str) -> None:
    """Refuse a configuration that names a place on the model hub to fetch from.

    Raises:
        InputError: some text in it begins with ``hf-hub:`` or the like.
    """
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, str) and value.lower().startswith(("hf-hub:", "hf_hub:")):
            raise InputError(
                f"{where} names {value[:80]!r}, which would have to be fetched, and nothing "
                "is: save the network's own name there, and its weights beside it"
            )
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
