"""The lines of a benchmark's table as CSV, Markdown and LaTeX."""

import csv
import io
import re
from collections.abc import Sequence

from stakes.runs.columns import COLUMNS, columns, measure
from stakes.runs.tables import Line, filled


def to_csv(lines: Sequence[Line], more: Sequence[str] = ()) -> str:
    """One line each, a mean and a standard deviation a column, unrounded; nothing is empty text.

    ``best`` names the columns that the other formats print in bold; ``more`` are keys beside
    those that are always there.
    """
    keys = list(dict.fromkeys([*COLUMNS, *more]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [f"{key}_{part}" for key in keys for part in ("mean", "sd")]
    writer.writerow(["network", "k", "method", "source", "n", *heads, "best"])
    for line in lines:
        numbers: list[float | None] = []
        for key in keys:
            found = line.stats.get(key)
            numbers += [None, None] if found is None else [found.mean, found.sd]
        source = {"ours": "measured", "before": "measured"}.get(line.kind, line.kind)
        best = " ".join(key for key in keys if key in line.best)
        names = (_inert(line.network), line.k, _inert(line.method))
        writer.writerow([*names, source, line.n, *numbers, best])
    return text.getvalue()


def _inert(text: str) -> str:
    """Text that a spreadsheet does not take for a formula.

    >>> _inert("=1+1"), _inert("ResNet-20")
    ("'=1+1", 'ResNet-20')
    """
    return f"'{text}" if text.lstrip()[:1] in set("=+-@\t\r\uff1d\uff0b\uff0d\uff20") else text


def to_markdown(
    lines: Sequence[Line], title: str, notes: Sequence[str], keys: Sequence[str] = ()
) -> str:
    """A table a network and k, with the notes below; ``keys`` are its columns."""
    keys = keys or columns(filled(lines))
    parts = [f"# {_plain(title)}"]
    for (network, k), group in _grouped(lines):
        parts.append(f"## {_plain(network)}, k = {k}")
        head = ["method", "n", *(_plain(measure(key).label) for key in keys)]
        rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
        for line in group:
            cells = (_cell(line, key, "**{}**", "±", "−") for key in keys)
            rows.append([_plain(line.label), str(line.n or ""), *cells])
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    parts += [_plain(note) for note in notes]
    return "\n\n".join(parts) + "\n"


def to_latex(
    lines: Sequence[Line], title: str, notes: Sequence[str], keys: Sequence[str] = ()
) -> str:
    r"""One ``table*`` for ``\input``, with the packages booktabs and graphicx; same columns."""
    keys = keys or columns(filled(lines))
    body = []
    for (network, k), group in _grouped(lines):
        span = len(keys) + 2
        body.append(
            rf"\midrule \multicolumn{{{span}}}{{l}}{{{escape(network)}, $k={k}$}} \\ \midrule"
        )
        for line in group:
            cells = (_cell(line, key, r"\textbf{{{}}}", r"$\pm$", "$-$") for key in keys)
            body.append(" & ".join([escape(line.label), str(line.n or ""), *cells]) + r" \\")
    head = ["Method", "$n$", *map(_heading, keys)]
    return "\n".join(
        [
            "% needs the packages booktabs and graphicx",
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{escape(title)}}}",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            *(rf"\par\footnotesize {escape(note)}" for note in notes),
            r"\end{table*}",
            "",
        ]
    )


def escape(text: str) -> str:
    r"""Text for LaTeX.

    >>> print(escape("50% of A_f & C:\\x"))
    50\% of A\_f \& C:\textbackslash{}x
    """
    return text.translate(LATEX)


LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "−": "$-$",
        "≥": r"$\geq$",
        "\n": " ",
        **{sign: f"{{{sign}}}" for sign in "[]*"},  # else an argument of the \\ before them
    }
)


def _plain(text: str) -> str:
    """Text for Markdown, in which nothing is markup."""
    signs = {ord(sign): f"\\{sign}" for sign in "\\|*_`<[]~"}
    plain = text.translate(signs | {ord("\n"): " ", ord("\r"): " "})
    plain = re.sub(r"^(\s*)([#>+=-])", r"\1\\\2", plain)
    return re.sub(r"^(\s*\d+)([.)])", r"\1\\\2", plain)


def _cell(line: Line, key: str, bold: str, plus_minus: str, sign: str) -> str:
    """A number with its spread; how many it is of, where some runs did not measure it."""
    found = line.stats.get(key)
    if found is None:
        return "–"
    digits, plus = measure(key).digits, "+" if key.startswith("change_") else ""
    text = f"{found.mean:{plus}.{digits}f}"
    text = text.lstrip("+-") if not float(text) else text.replace("-", sign)
    if found.sd is not None:
        text += f" {plus_minus} {found.sd:.{digits}f}"
    if line.n and found.n < line.n:
        text += f" (n={found.n})"
    return bold.format(text) if key in line.best else text


def _heading(key: str) -> str:
    """The heading of a column in LaTeX."""
    column = measure(key)
    return column.latex or escape(column.label)


def _grouped(lines: Sequence[Line]) -> list[tuple[tuple[str, int | None], list[Line]]]:
    groups: dict[tuple[str, int | None], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.network, line.k), []).append(line)
    return list(groups.items())
