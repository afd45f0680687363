"""The one declaration of a hyper-parameter: type, default, bounds, meaning and source.

The constructor, the command line, ``--help``, recipes and the documentation all read it.
"""

import numbers
from collections.abc import Mapping
from dataclasses import Field, field, fields
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import pydantic

from stakes.errors import InputError, nearest, quoted

T = TypeVar("T")

#: No setting is larger than this: what is, is a slip of the keyboard.
MOST: dict[type, float] = {int: 10**7, float: 1e6}


def hyper(
    default: T,
    doc: str,
    source: str = "",
    *,
    low: float | None = 0,
    above: float | None = None,
    high: float | None = None,
) -> T:
    """A hyper-parameter: a dataclass field with its meaning, unit, source and bounds.

    Args:
        default: its value where none is given.
        doc: what it means, and its unit.
        source: who chose the default; our own choice where this is empty.
        low: the least value.
        above: the value that it has to exceed, in place of ``low``.
        high: the greatest value, by default that of ``MOST``.
    """
    kind = type(default)
    metadata = {
        "doc": doc,
        "source": source,
        "low": low if above is None else None,
        "above": above,
        "high": MOST.get(kind) if high is None else high,
    }
    return field(default=default, metadata=metadata)


def check(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a dataclass, checked and of exactly the declared types.

    Numbers of numpy count as numbers, and whole numbers as numbers with a point; texts, booleans
    and numbers with a point never count as whole numbers.

    Raises:
        InputError: the first value that cannot be: its field, the value, and what can be.
    """
    plain = {name: _plain(value) for name, value in values.items()}
    try:
        return dict(_model(kind)(**plain))
    except pydantic.ValidationError as error:
        name = str(error.errors(include_url=False, include_input=False)[0]["loc"][0])
        item = {item.name: item for item in fields(kind)}[name]
        bounds = allowed(item, get_type_hints(kind)[name])
        raise InputError(f"{name}={quoted(values[name])}: give {bounds}") from None


def check_names(kind: type, names: Mapping[str, Any]) -> None:
    """Refuse a name that is no hyper-parameter.

    Raises:
        InputError: there is such a name; the nearest is offered.
    """
    known = [item.name for item in fields(kind)]
    for name in names:
        if name not in known:
            title = getattr(kind, "title", kind.__name__)
            raise InputError(f"{title} has no hyper-parameter {name}{nearest(name, known)}")


def allowed(item: Field[Any], hint: object) -> str:
    """What a hyper-parameter may be, in words.

    >>> from stakes.methods.neggrad import NegGrad
    >>> allowed(NegGrad.__dataclass_fields__["forget_batch"], int)
    'a whole number from 1 to 10000000'
    """
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if hint is bool:
        return "True or False"
    if hint is str:
        return "text"
    bounds = _metadata(item)
    noun = "a whole number" if hint is int else "a number"
    if bounds["high"] is None:
        return noun
    start = f"above {bounds['above']:g}" if bounds["low"] is None else f"from {bounds['low']:g}"
    high = f"{bounds['high']:d}" if hint is int else f"{bounds['high']:g}"
    return f"{noun} {start} to {high}"


def explained(item: Field[Any]) -> str:
    """Meaning and source, for help.

    >>> from stakes.methods.neggrad import NegGrad
    >>> explained(NegGrad.__dataclass_fields__["momentum"])
    'momentum of SGD (public code of L2UL)'
    """
    doc, source = _metadata(item)["doc"], _metadata(item)["source"]
    return f"{doc} ({source})" if source else str(doc)


def _metadata(item: Field[Any]) -> Mapping[str, Any]:
    """What :func:`hyper` wrote; nothing for a plain field, as a method of one's own may have."""
    return item.metadata or {"doc": item.name, **dict.fromkeys(("source", "low", "above", "high"))}


@cache
def _model(kind: type) -> type[pydantic.BaseModel]:
    """The pydantic model of a dataclass's fields."""
    hints = get_type_hints(kind)
    columns: dict[str, Any] = {}
    for item in fields(kind):
        hint = hints[item.name]
        if hint in MOST:
            low, above, high = (_metadata(item)[key] for key in ("low", "above", "high"))
            hint = Annotated[hint, pydantic.Field(ge=low, gt=above, le=high, allow_inf_nan=False)]
        columns[item.name] = (hint, item.default)
    config = pydantic.ConfigDict(strict=True, extra="forbid")
    return pydantic.create_model(kind.__name__, __config__=config, **columns)


def _plain(value: Any) -> Any:
    """A number of numpy as a number of Python; anything else as it is."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value
