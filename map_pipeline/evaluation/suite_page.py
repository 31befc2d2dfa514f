"""The page of a suite: a table a question, the command under it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jinja2
import pandas as pd

from map_pipeline.evaluation.answers import tally
from map_pipeline.evaluation.methods import create, method_names
from map_pipeline.evaluation.plots import draw_lineup, draw_visible_change, write_chart
from map_pipeline.evaluation.report import STYLE
from map_pipeline.evaluation.tables import Table, wide
from map_pipeline.files import write_atomically

LINEUP = "lineup"  # name of a table
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>MAP: all figures</title>
<style>{{ style }}</style></head><body>
<h1>How well does it protect?</h1>
<p>Shares come with their 95 % interval over people; "before -> after" compares with the unprotected
photo.</p>
{% for chart in charts %}
<img alt="dodging against its price" src="data:image/png;base64,{{ chart }}">{% endfor %}
{% for one in answers %}<h2>{{ one.question }}</h2>
{% for table in one.tables %}{% if table.title != one.question %}<h3>{{ table.title }}</h3>
{% endif %}<div class="scroll">{{ table.shown.to_html(index=False) | safe }}</div>{% endfor %}
{% if one.note %}<p>{{ one.note }}</p>{% endif %}<pre>{{ one.command }}</pre>
{% if one.minutes %}<p>{{ "%.0f" | format(one.minutes) }} minutes</p>{% endif %}{% endfor %}
</body></html>
"""


@dataclass(frozen=True)
class Answer:
    """A question with what was found.

    Attributes:
        question: the heading; tables: what answers it.
        command: what makes these tables; minutes: how long that takes here, 0 if people do it.
        note: what is still missing, or why there is no table.
    """

    question: str
    tables: Sequence[Table]
    command: str
    minutes: float = 0.0
    note: str = ""


def write_page(
    out: Path, answers: Sequence[Answer], compared: Mapping[str, Sequence[Table]]
) -> str:
    """Write `suite.html`, `suite.md` and the charts of all methods; return the Markdown.

    Args:
        compared: part -> all its tables, of the methods that are drawn in one chart.
    """
    tables = joined(compared)
    drawn = {"visible_change.png": draw_visible_change}
    for table in (table for one in answers for table in one.tables if table.name == LINEUP):
        tables[LINEUP], drawn["lineup.png"] = table, draw_lineup
    for name, draw in drawn.items():
        write_chart(partial(draw, tables=tables, titles=method_titles()), out / name)
    markdown = "\n".join(to_markdown(one) for one in answers)
    write_atomically(out / "suite.md", markdown.encode())
    # pandas escapes the cells.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    charts = [base64.b64encode((out / name).read_bytes()).decode() for name in drawn]
    page = environment.from_string(PAGE).render(style=STYLE, answers=answers, charts=charts)
    write_atomically(out / "suite.html", page.encode())
    return markdown


def method_titles() -> dict[str, str]:
    """Name of a method -> its title, with the usual budget."""
    return {name: create(name).title for name in method_names()}


def lineup_table(folders: Sequence[Path]) -> Table:
    """What viewers said of every method, see `answers.tally`."""
    lines = []
    for method, one in tally(folders).items():
        for measure, share in (("found", one.found), ("edited", one.edited)):
            if share is not None:
                lines.append((method, measure, share.value, share.low, share.high, share.n))
    columns = ["method", "measure", "share", "low", "high", "n"]
    figures = pd.DataFrame(lines, columns=columns)
    shown = wide(figures, ["method"], method_titles())
    return Table(LINEUP, "Do people still find the person?", figures, shown)


def to_markdown(answer: Answer) -> str:
    """One question with its tables and the command."""
    parts = [f"## {answer.question}"]
    for table in answer.tables:
        parts += [] if table.title == answer.question else [f"### {table.title}"]
        parts.append(table.shown.to_markdown(index=False))
    parts += [answer.note] if answer.note else []
    spent = f" ({answer.minutes:.0f} minutes)" if answer.minutes else ""
    parts.append(f"`{answer.command}`{spent}\n")
    return "\n\n".join(parts)


def joined(compared: Mapping[str, Sequence[Table]]) -> dict[str, Table]:
    """The tables "protection" and "quality" with the methods of several parts, by their titles."""
    found = {}
    for name in ("protection", "quality"):
        chosen = [one for made in compared.values() for one in made if one.name == name]
        figures = pd.concat([_titled(one) for one in chosen], ignore_index=True)
        shown = pd.concat([one.shown for one in chosen], ignore_index=True)
        found[name] = Table(name, chosen[0].title, figures, shown)
    return found


def _titled(table: Table) -> pd.DataFrame:
    """Figures with titles of methods, which hold their budget, in place of names."""
    methods = dict.fromkeys(table.figures["method"])
    titles = dict(zip(methods, table.shown["method"], strict=True))
    return table.figures.assign(method=table.figures["method"].map(titles))
