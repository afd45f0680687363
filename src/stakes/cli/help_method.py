"""``stakes unlearn --help-method NAME``: the hyper-parameters of a method."""

import typing
from dataclasses import fields

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stakes.methods import method_class
from stakes.methods.fields import allowed, explained


def help_method(name: str, preset: str | None) -> None:
    """Print each hyper-parameter with its default, its bounds, its meaning and its source.

    Raises:
        InputError: no such method, or no such preset of it.
    """
    kind = method_class(name, preset)
    hints, console = typing.get_type_hints(kind), Console()
    table = Table(
        "option", "default", "meaning", "values", title=f"Hyper-parameters of {kind.title}"
    )
    table.columns[0].no_wrap = True
    for item in fields(kind):
        option = "--" + item.name.replace("_", "-")
        values = "a switch" if hints[item.name] is bool else allowed(item, hints[item.name])
        default = f"{item.default:.4g}" if isinstance(item.default, float) else str(item.default)
        cells = (option, default, explained(item), values)
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)
    needs = "needs retained training data (--data)" if kind.needs_retain else "needs no other data"
    said = (kind.__doc__ or "").strip().partition("\n")[0]
    console.print(escape(f"{kind.title} {needs}. {said}".rstrip()))
