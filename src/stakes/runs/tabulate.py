"""Tables, figures and page of a benchmark, from the cells that are finished by now."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from stakes.files import write_text
from stakes.manifest import MANIFEST
from stakes.report.figures.paper import Named, plates, write_plates
from stakes.report.page import write_report
from stakes.report.run_reader import read_run
from stakes.runs import typeset
from stakes.runs.cell import Cell
from stakes.runs.columns import columns, latex_columns
from stakes.runs.notes import MARKING, circumstances, endings
from stakes.runs.recipe import Recipe
from stakes.runs.runner import read_record
from stakes.runs.tables import Row, filled, summarise


def write_tables(recipe: Recipe, out: Path) -> bool:
    """Write tables, figures and report of the recipe's finished cells; False if there are none."""
    finished = [cell for cell in recipe.cells if _is_finished(cell, out)]
    if not finished:
        return False
    folders = [out / "runs" / cell.name for cell in finished]
    rows, shown = [], []
    for cell, folder in zip(finished, folders, strict=True):
        names = {"cell": cell.name, "cell_network": cell.network, "cell_method": cell.method}
        run = read_run(folder)
        rows.append(names | run.row)
        shown.append(Named(cell.network, cell.k, cell.method, run))
    more = [word.lstrip("+-") for word in recipe.columns]
    lines = summarise(rows, recipe.paper_rows(), more)
    keys = columns(filled(lines), recipe.columns)
    few = latex_columns(keys, recipe.columns)
    notes = _notes(recipe, out, rows)
    cut = [f"table.md has {len(keys) - len(few)} more columns."] if len(few) < len(keys) else []
    write_text(out / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_text(out / "table.csv", typeset.to_csv(lines, more))
    write_text(out / "table.md", typeset.to_markdown(lines, recipe.title, notes, keys))
    write_text(out / "table.tex", typeset.to_latex(lines, recipe.title, [*notes, *cut], few))
    drawn = plates(recipe.figures, shown)
    write_plates(drawn, out)
    write_report(folders, out / "report.html", title=recipe.title, plates=drawn)
    return True


def _is_finished(cell: Cell, out: Path) -> bool:
    """Whether the cell has a result that can be told from one changed since."""
    noted = read_record(cell, out).get("state") == "finished"
    return noted and (out / "runs" / cell.name / MANIFEST).is_file()


def _notes(recipe: Recipe, out: Path, rows: Sequence[Row]) -> list[str]:
    """What stands below the tables: first of all whether something is missing."""
    states = Counter(str(read_record(cell, out).get("state")) for cell in recipe.cells)
    notes, absent = [], len(recipe.cells) - len(rows)
    if absent:
        failed = states["failed"]
        notes.append(
            f"Partial: {len(rows)} of {len(recipe.cells)} cells; {failed} failed, "
            f"{absent - failed} not run to the end yet."
        )
    notes += [MARKING, *circumstances(rows), *endings(rows)]
    paper = recipe.paper
    if paper is not None and paper.row:
        on = f" ({paper.network})" if paper.network else ""
        notes.append(f"Lines “paper” are as printed in {paper.source}{on}. {paper.note}".strip())
    return [*notes, recipe.note] if recipe.note else notes
