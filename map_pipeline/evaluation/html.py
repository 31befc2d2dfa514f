"""The report of an evaluation as one HTML page beside its plots: `report.html`.

The page needs no network and no script, works from the file system, follows the reader's light or
dark setting, and fits a phone. Names given by users are only ever passed as text; the template
escapes them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from map_pipeline.evaluation import findings, html_context, html_protection, wording
from map_pipeline.evaluation.findings import Summary
from map_pipeline.evaluation.html_page import Picture, Plots, Section, described
from map_pipeline.images import write_atomically

TEMPLATE = Path(__file__).with_name("report.html.jinja")
TITLE = "MAP: how well are the photos protected?"


def write_report(summary: Summary, plots: Sequence[Path], out: Path) -> Path:
    """Write `out/report.html`.

    Args:
        summary: content of `summary.json`.
        plots: PNG files of `plots.write_plots`, inside of `out`.
        out: folder of the run.

    Returns:
        Path of the page.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = typeset
    pictures = {path.stem: Picture.of(path, out) for path in plots}
    page = environment.get_template(TEMPLATE.name).render(
        title=TITLE,
        subtitle=f"{findings.photos(summary['photos'])}, measured on {summary['date'][:10]} by "
        f"map-protect evaluate {summary['versions'].get('map_pipeline', '')}",
        headline=wording.headline(summary),
        sections=[section for section in _sections(summary, pictures) if _has_content(section)],
    )
    write_atomically(out / "report.html", page.encode())
    return out / "report.html"


def typeset(text: str) -> str:
    """Our own sentences with what belongs together kept on one line."""
    return text.replace(" %", "\u00a0%").replace(" -> ", "\u00a0\u2192 ")


def _has_content(section: Section) -> bool:
    return bool(section.paragraphs or section.pictures or section.tables)


def _sections(summary: Summary, plots: Plots) -> Iterator[Section]:
    yield html_context.measured(summary)
    yield Section(
        "pictures",
        "Before and after",
        ["Cut to the part that was changed. Look at the full photos in the folder photos/."],
        described(plots, contact_sheet="Photos before and after, one column per method"),
    )
    yield html_protection.verification(summary, plots)
    yield html_protection.dodging(summary)
    yield html_protection.identification(summary)
    yield html_protection.robustness(summary, plots)
    yield html_protection.styles(summary)
    yield html_protection.commercial(summary)
    yield html_context.quality(summary)
    yield html_context.expression(summary, plots)
    yield html_protection.groups(summary, plots)
    yield html_context.cost(summary)
    yield html_protection.ablations(summary, plots)
    yield html_protection.trade_off(summary, plots)
    yield html_context.problems(summary)
    yield html_context.missing(summary)
    yield html_context.published_figures()
