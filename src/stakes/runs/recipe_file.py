"""A recipe's file: where it lies, and what it may hold: its keys, their types and bounds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from stakes.errors import InputError, nearest, quoted
from stakes.texts import check_file, expanded

SHIPPED = Path(__file__).parent / "recipes"


def _different(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("one of them appears twice")
    return values


Option = bool | int | float | str
Options = dict[str, Option | list[Option]]
Percent = Annotated[float | None, Field(ge=0, le=100, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class PaperRow(_Strict):
    """One line of a table printed elsewhere; shares in percent."""

    method: str
    k: int | None = None
    forgotten: Percent = None
    acc_test: Percent = None
    acc_retain: Percent = None


class Paper(_Strict):
    """Numbers that others have printed: where, on what network, and what differs there.

    Where the recipe varies no k, neither do the rows.
    """

    source: Annotated[str, Field(min_length=1, description="a text: where its numbers are printed")]
    network: Annotated[str, Field(description="a text")] = ""
    note: Annotated[str, Field(description="a text")] = ""
    row: Annotated[
        list[PaperRow],
        Field(description="[[paper.row]] with a method, a k of the recipe, and percentages"),
    ] = []


class RecipeFile(_Strict):
    """The keys of a recipe; a description says what is wanted where another thing stands."""

    title: Annotated[str, Field(description="a text")] = ""
    note: Annotated[str, Field(description="a text")] = ""
    forget: Annotated[
        str, Field(min_length=1, description='"random:{k}", a folder or a table of images')
    ]
    k: Annotated[
        list[Annotated[int, Field(ge=1)]] | None,
        AfterValidator(lambda values: values if values is None else _different(values)),
        Field(description="[...], different whole numbers from 1 on"),
    ] = None
    seeds: Annotated[
        list[Annotated[int, Field(ge=0, lt=2**63 - 1)]],
        AfterValidator(_different),
        Field(min_length=1, description="[...], different whole numbers from 0 on"),
    ]
    figures: Annotated[
        list[str | int], AfterValidator(_different), Field(description="[...], different figures")
    ] = []
    columns: Annotated[
        list[str], AfterValidator(_different), Field(description="[...], different columns")
    ] = []
    threads: Annotated[
        Annotated[int, Field(ge=1)] | None, Field(description="a whole number from 1 on")
    ] = None
    set: Annotated[
        dict[str, str], Field(description="a table [set]: a word on each placeholder")
    ] = {}
    common: Annotated[Options, Field(description="a table [common] of options")] = {}
    network: Annotated[
        list[Options], Field(min_length=1, description="at least one [[network]] of options")
    ]
    method: Annotated[
        list[Options], Field(min_length=1, description="at least one [[method]] of options")
    ]
    paper: Annotated[Paper | None, Field(description="a table [paper] with a source")] = None


def checked(tables: Mapping[str, Any]) -> RecipeFile:
    """The recipe that TOML tables make.

    Raises:
        InputError: the first key that is unknown (the nearest is named), missing or holds
            something else: where, what, and what is wanted.
    """
    try:
        return RecipeFile(**tables)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # a slip in a key leaves that key missing too: the slip is the one to name
        first = min(errors, key=lambda one: one["type"] != "extra_forbidden")
        raise InputError(_said(first["type"], first["loc"], first.get("input"))) from None


def _said(kind: str, place: tuple[int | str, ...], value: object) -> str:
    """The message for one error: its kind and place as pydantic names them, and the value."""
    keys = [key for key in place if isinstance(key, str)]
    inside = keys[0] == "paper" and len(keys) > 1
    model: type[BaseModel] = Paper if inside else RecipeFile
    key = keys[1] if inside else keys[0]
    if kind == "extra_forbidden":
        rows = inside and key == "row"
        known = (PaperRow if rows else model).model_fields
        where = " in [[paper.row]]:" if rows else " in [paper]:" if inside else ""
        return f"unknown key{where} {keys[-1]}{nearest(keys[-1], known)}"
    at = f"paper.{key}" if inside else key
    if keys[0] in ("common", "network", "method") and len(keys) > 1:
        return f"{keys[1]} = {quoted(value)} in {key}: expected a text, a number or a list of them"
    found = "" if kind == "missing" else f", not {quoted(value)}"
    return f"expected {at} = {model.model_fields[key].description}{found}"


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with stakes: name -> file, by name.

    >>> shipped_recipes()["quick"].name
    'quick.toml'
    """
    return {file.stem: file for file in sorted(SHIPPED.glob("*.toml"))}


def find_recipe(source: str | Path) -> Path:
    """The file that ``source`` means.

    Raises:
        InputError: there is none.
    """
    path = expanded(source)
    if path.suffix == ".toml" and path.exists():
        check_file(path, "recipe")
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(source) in shipped:
        return shipped[str(source)]
    raise InputError(
        f"recipe {source}: no such file, and none of that name{nearest(str(source), shipped)}"
    )
