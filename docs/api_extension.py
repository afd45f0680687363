"""Docstrings as the API page shows them: cross-references as code, examples as blocks."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data):`~?([^`]+)`")
EXAMPLE = re.compile(r"(?m)^>>> (?:.+\n?)+")


class Docstrings(griffe.Extension):
    """Rewrite each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for each module, class and function."""
        if obj.docstring is not None:
            text = ROLE.sub(lambda found: f"`{found[1]}`", obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub(
                lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text
            )
