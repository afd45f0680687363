"""Numbers, times and lists as a person reads them; nothing measured is "not measured"."""

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from markupsafe import Markup, escape

from stakes.report.intervals import wilson
from stakes.rows import Metric

NOT_MEASURED = "not measured"
OPTION = re.compile(r"--[a-z][a-z-]*(?: views\b)?")


def listed(parts: Sequence[str]) -> str:
    """Join words for a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


def share(value: float | None) -> str:
    """A percentage without its sign; never rounded to 0 or 100 when it is neither.

    >>> share(91.73), share(99.98), share(0), share(None)
    ('91.7', '99.98', '0.0', 'not measured')
    """
    if value is None:
        return NOT_MEASURED
    shown = (f"{value:.{digits}f}" for digits in (1, 2, 3, 4))
    return next((text for text in shown if float(text) not in (0, 100)), f"{value:.1f}")


def about(value: float) -> str:
    """A percentage without its sign, in one column with others: near 0 or 100, a bound.

    >>> about(91.73), about(99.98), about(0.003), about(0), about(100)
    ('91.7', '>99.9', '<0.1', '0.0', '100.0')
    """
    if 0 < value < 0.05:
        return "<0.1"
    return ">99.9" if 99.95 <= value < 100 else f"{value:.1f}"


def with_code(text: str) -> Markup:
    """A sentence in HTML, the options in it, with a choice such as views, as code.

    >>> print(with_code("Only --criterion views asks (--data)."))
    Only <code>--criterion views</code> asks (<code>--data</code>).
    """
    return Markup(OPTION.sub(r"<code>\g<0></code>", str(escape(text))))


def percent(value: float | None) -> str:
    """A percentage with its sign."""
    return share(value) if value is None else f"{share(value)}\u00a0%"


def points(value: float | None, digits: int = 1) -> str:
    """A signed change with a true minus sign.

    >>> points(-1.84), points(0.04), points(2)
    ('−1.8', '0.0', '+2.0')
    """
    if value is None:
        return NOT_MEASURED
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def duration(seconds: float | None) -> str:
    """A length of time.

    >>> duration(45.25).split(), duration(3849).split()
    (['45.2', 's'], ['1', 'h', '4', 'min'])
    """
    if seconds is None:
        return NOT_MEASURED
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else rest, "s")]
    return " ".join(f"{n}\u00a0{unit}" for n, unit in parts if n)


def setting(value: object) -> str:
    """A recorded value as a person would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def four_digits(value: float | None) -> str:
    """A number of unknown unit and size, to four digits, with a true minus sign.

    >>> four_digits(-0.98765), four_digits(12), four_digits(None)
    ('−0.9877', '12', 'not measured')
    """
    return NOT_MEASURED if value is None else f"{value:.4g}".replace("-", "−")


def moment(value: object) -> object:
    """A recorded time without its fractions; whatever is no time stays as it is.

    >>> moment("2026-03-01T12:00:05+00:00"), moment("yesterday")
    ('2026-03-01 12:00 UTC', 'yesterday')
    """
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        return value
    return f"{time:%Y-%m-%d %H:%M %Z}".strip()


def formatted(spec: str) -> Callable[[float | None], str]:
    """Print numbers by a format specification."""
    return lambda value: NOT_MEASURED if value is None else format(value, spec).replace("-", "−")


decimals = formatted(".2f")


def several(count: float, word: str) -> str:
    """A number with its noun.

    >>> several(1, "image"), several(1600, "image")
    ('1 image', '1,600 images')
    """
    return f"{count:,.0f} {word}{'s' * (count != 1)}"


def between(value: float | None, n: float | None) -> str | None:
    """The ends of a 95 % interval for a percentage of ``n`` images.

    >>> between(100.0, 10), between(None, 10)
    ('72.2 and 100.0', None)
    """
    if value is None or not n:
        return None
    return " and ".join(share(100 * end) for end in wilson(min(max(value / 100, 0.0), 1.0), n))


def measured(value: float | None, metric: Metric) -> str:
    """A number of a table."""
    if metric.unit == "%":
        return share(value)
    return formatted(f",.{metric.digits}f")(value)


FORMATS: dict[str, Callable[..., Any]] = {
    "about": about,
    "with_code": with_code,
    "share": share,
    "percent": percent,
    "points": points,
    "duration": duration,
    "setting": setting,
    "between": between,
    "moment": moment,
    "several": several,
    "four_digits": four_digits,
    "measured": measured,
    "small": formatted(".4f"),
    "whole": formatted(",.0f"),
    "tenths": formatted(",.1f"),
    "hundredths": decimals,
}
