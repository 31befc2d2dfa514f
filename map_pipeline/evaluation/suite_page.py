"""The page of a suite: a table a question, the command under it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd

from map_pipeline.evaluation.plots import write_visible_change
from map_pipeline.evaluation.report import STYLE
from map_pipeline.evaluation.tables import Table
from map_pipeline.files import write_atomically

CHART = "visible_change.png"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>MAP: all figures</title>
<style>{{ style }}</style></head><body>
<h1>How well does it protect?</h1>
<p>Shares come with their 95 % Wilson interval; "before -> after" compares with the unprotected
photo.</p>
<img alt="dodging against visible change" src="data:image/png;base64,{{ chart }}">
{% for one in answers %}<h2>{{ one.question }}</h2>
{% for table in one.tables %}{% if table.title != one.question %}<h3>{{ table.title }}</h3>
{% endif %}<div class="scroll">{{ table.shown.to_html(index=False) | safe }}</div>{% endfor %}
<pre>{{ one.command }}</pre><p>{{ "%.0f" | format(one.minutes) }} minutes</p>{% endfor %}
</body></html>
"""


@dataclass(frozen=True)
class Answer:
    """A question with what was found.

    Attributes:
        question: the heading; tables: what answers it.
        command: what to type for these tables alone; minutes: how long that takes.
    """

    question: str
    tables: Sequence[Table]
    command: str
    minutes: float


def write_page(
    out: Path, answers: Sequence[Answer], compared: Mapping[str, Sequence[Table]]
) -> str:
    """Write `suite.html`, `suite.md` and the chart of all methods; return the Markdown.

    Args:
        compared: part -> all its tables, of the methods that are drawn in one chart.
    """
    write_visible_change(joined(compared), out / CHART)
    markdown = "\n".join(to_markdown(one) for one in answers)
    write_atomically(out / "suite.md", markdown.encode())
    # pandas escapes the cells.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    chart = base64.b64encode((out / CHART).read_bytes()).decode()
    page = environment.from_string(PAGE).render(style=STYLE, answers=answers, chart=chart)
    write_atomically(out / "suite.html", page.encode())
    return markdown


def to_markdown(answer: Answer) -> str:
    """One question with its tables and the command."""
    parts = [f"## {answer.question}"]
    for table in answer.tables:
        parts += [] if table.title == answer.question else [f"### {table.title}"]
        parts.append(table.shown.to_markdown(index=False))
    parts.append(f"`{answer.command}` ({answer.minutes:.0f} minutes)\n")
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
