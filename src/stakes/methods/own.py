"""Methods that are not ours: of an installed package, or of code that a user names."""

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from stakes.errors import InputError
from stakes.methods.base import Method
from stakes.models.own_code import PREFIX, run_file, theirs
from stakes.texts import expanded

GROUP = "stakes.methods"
"""The entry points of packages that bring methods: a name, and ``package.module:Class``."""


def installed() -> dict[str, EntryPoint]:
    """The methods of installed packages by their names; none of them is imported."""
    return {point.name: point for point in entry_points(group=GROUP)}


def own_method(name: str) -> type[Method] | None:
    """The class that a name means, imported; None where it means none.

    Args:
        name: of an entry point, ``package.module:Class``, or ``path/to/file.py:Class``.

    Raises:
        InputError: the code cannot be imported, or is no method.
    """
    point = installed().get(name)
    place = name if point is None else f"{point.module}:{point.attr}"
    code, _, attribute = place.rpartition(":")
    if not code:
        return None
    kind = getattr(_module(code, name), attribute, None)
    if not isinstance(kind, type) or not issubclass(kind, Method):
        raise InputError(
            f"--method {name}: {code} has no method {attribute}; name a dataclass in it that is "
            "derived from stakes.methods.Method"
        )
    if {"__init__", "__annotations__"} & vars(kind).keys() and not _is_dataclass(kind):
        raise InputError(
            f"--method {name}: {attribute} has fields of its own and is no dataclass; put "
            "@dataclass(frozen=True, kw_only=True) above it"
        )
    if not isinstance(getattr(kind, "title", None), str):
        raise InputError(
            f"--method {name}: {attribute} has no title, by which reports call it; add "
            'title: ClassVar[str] = "..."'
        )
    with theirs(f"--method {name}"):
        kind()  # every hyper-parameter has a default, and what has to be written is
    return kind


def _is_dataclass(kind: type[Method]) -> bool:
    """Whether a class is one itself, and not only what it is derived from."""
    return "__dataclass_params__" in vars(kind)


def own_name(kind: type[Method]) -> str:
    """The name of a method that is not ours: its entry point, else where it is written.

    Of a file that was run, that is ``file.py:Class``, without its folder.
    """
    code = kind.__module__
    if code.startswith(PREFIX):
        code = f"{code.removeprefix(PREFIX)}.py"
    place = f"{code}:{kind.__qualname__}"
    for name, point in installed().items():
        if f"{point.module}:{point.attr}" == place:
            return name
    return place


def _module(code: str, name: str) -> ModuleType:
    if code.endswith(".py"):
        return run_file(expanded(code), "--method")
    with theirs(f"--method {name}"):
        try:
            return import_module(code)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{code}.".startswith(f"{error.name}."):
                raise
            raise InputError(
                f"--method {name}: there is no module {error.name}; install its package, or give "
                "path/to/file.py:Class"
            ) from error
