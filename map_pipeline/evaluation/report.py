"""What a run leaves for people: `summary.json`, `report.md`, one HTML page, and charts."""

import base64
import hashlib
import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn import Module

from map_pipeline import __version__
from map_pipeline.evaluation import tables
from map_pipeline.evaluation.dataset import Problem
from map_pipeline.evaluation.features import (
    SIDE,
    TEMPLATE,
    FeatureNetwork,
    crop_at,
    feature_distance,
    frechet_distance,
)
from map_pipeline.evaluation.gallery import Gallery
from map_pipeline.evaluation.groups import gaps, groups, members
from map_pipeline.evaluation.plots import write_plots
from map_pipeline.evaluation.protocol import threshold_at_far
from map_pipeline.evaluation.results import PhotoRow, Row, photo_file
from map_pipeline.evaluation.tables import Table
from map_pipeline.faces.align import similarity_transform
from map_pipeline.files import write_atomically
from map_pipeline.images import load_image, to_array
from map_pipeline.pipeline import MAPPipeline

PACKAGES = ("torch", "diffusers", "torchmetrics", "numpy", "pillow", "onnxruntime", "scipy")
SHEET_PHOTOS, SHEET_SIDE = 8, 160  # pictures of the contact sheet, and their side, px

Thresholds = dict[str, dict[str, dict[str, Any]]]
"""Recogniser -> FAR as text -> "stored", "estimated", "used" and what the estimate rests on."""


@dataclass(frozen=True)
class Context:
    """What a report holds besides the figures of its rows.

    Attributes:
        config: the run's options; pipe: for titles.
        titles: method -> title; thresholds: see `estimate_thresholds`.
        weights: component -> SHA-256, see `weight_hashes`.
        attributes: photo -> attribute -> group; problems: what couldn't be used.
        judge: title of the expression judge, None without one.
        features: see `measure_features`, None without its network.
        probe: what photos were compared with to judge impersonation.
    """

    config: Mapping[str, Any]
    pipe: MAPPipeline
    titles: Mapping[str, str]
    thresholds: Thresholds
    weights: Mapping[str, str]
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    problems: Sequence[Problem] = ()
    judge: str | None = None
    features: pd.DataFrame | None = None
    probe: str = ""


def estimate_thresholds(
    pipe: MAPPipeline, gallery: Gallery, fars: Sequence[float], prefer: str = "stored"
) -> Thresholds:
    """Thresholds stored with the recognisers beside those that the clean pairs give.

    Args:
        fars: false accept rates.
        prefer: "stored" or "estimated": which is used where both are known.

    Returns:
        "stored", "estimated" and "used" are None where unknown; "genuine_matched" is the share of
        clean pairs that match at the one used.
    """
    found: Thresholds = {}
    for name, net in pipe.recognisers.items():
        strangers, same = gallery.pairs(name)
        found[name] = {}
        for far in fars:
            stored = net.config.thresholds.get(f"{far:g}")
            estimated = threshold_at_far(strangers, far)
            first, second = (estimated, stored) if prefer == "estimated" else (stored, estimated)
            used = second if first is None else first
            matched = None if used is None or not len(same) else float((same >= used).mean())
            found[name][f"{far:g}"] = {
                "stored": stored,
                "estimated": estimated,
                "used": used,
                "impostor_pairs": len(strangers),
                "genuine_pairs": len(same),
                "genuine_matched": matched,
            }
    return found


def make_tables(
    rows: Sequence[Row],
    photo_rows: Sequence[PhotoRow],
    context: Context,
) -> tuple[list[Table], pd.DataFrame]:
    """All tables and, at the first false accept rate, the rows that they rest on.

    Args:
        rows: of `results.csv`; photo_rows: of `photos.csv`.
    """
    photos, titles = tables.frame(photo_rows), context.titles
    styles = photos[["photo", "style"]].drop_duplicates()

    def at(far: str) -> pd.DataFrame:
        """What each photo achieved at a false accept rate."""
        limits = {name: one[far]["used"] for name, one in context.thresholds.items()}
        known = {name: value for name, value in limits.items() if value is not None}
        return tables.outcomes(tables.frame(rows), known).merge(styles, on="photo")

    first, *stricter = next(iter(context.thresholds.values()))
    judged = at(first)
    plain = judged[judged["style"] == "plain"]
    plain_photos = photos[photos["style"] == "plain"]
    who = members(plain_photos, context.attributes)
    found = [
        tables.protection(plain, plain_photos, titles),
        *(tables.strict(at(far).query("style == 'plain'"), far, titles) for far in stricter),
        tables.recognisers(plain, titles),
        tables.robustness(plain, titles),
        tables.quality(plain_photos, titles, context.features),
        groups(plain, who, titles),
        gaps(plain, who, titles),
        tables.styles(judged, photos, titles),
        tables.expression(plain_photos, titles, context.judge or "the judge"),
        tables.facepp(plain_photos, titles),
        tables.thresholds(context.thresholds),
    ]
    return [one for one in found if one is not None], plain


def write_report(
    out: Path, rows: Sequence[Row], photo_rows: Sequence[PhotoRow], context: Context
) -> tuple[list[Table], str]:
    """Write everything into the folder of a run; return the tables, also as Markdown."""
    made, plain = make_tables(rows, photo_rows, context)
    facts = _facts(photo_rows, context)
    figures = {one.name: json.loads(one.figures.to_json(orient="records")) for one in made}
    summary = json.dumps({**facts, "tables": figures}, indent=2, default=str)
    write_atomically(out / "summary.json", summary.encode())
    markdown = to_markdown(made, facts)
    write_atomically(out / "report.md", markdown.encode())
    charts = write_plots({one.name: one for one in made}, plain, context.titles, out)
    page = to_html(made, facts, charts, contact_sheet(out, photo_rows))
    write_atomically(out / "report.html", page.encode())
    return made, markdown


def to_markdown(made: Sequence[Table], facts: Mapping[str, Any]) -> str:
    """The tables as Markdown, with what couldn't be used below them."""
    parts = [f"## {one.title}\n\n{one.shown.to_markdown(index=False)}\n" for one in made]
    lines = [f"- {one['name']}: {one['rule']}" for one in facts["problems"]]
    lines += [f"- {one['photo']} ({one['method']}): {one['status']}" for one in facts["failures"]]
    if lines:
        parts.append("## Photos that couldn't be used, or failed\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;font-size:.85rem}td,th{padding:.25rem .6rem;text-align:left}
tr:nth-child(even){background:#f4f4f2}img{max-width:100%}.scroll{overflow-x:auto}
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>MAP: evaluation</title>
<style>{{ style }}</style></head><body>
<h1>How well does it protect?</h1>
<p>{{ facts.photos }} photos, {{ facts.date }}, MAP {{ facts.versions.map_pipeline }}, detector
{{ facts.detector }}.{% if facts.probe %} Impersonation is judged against {{ facts.probe }}.
{% endif %} Shares come with their 95 % interval over people; "before -> after" compares with the
unprotected photo.</p>
{% for one in made %}<h2>{{ one.title }}</h2><div class="scroll">{{ one.html }}</div>{% endfor %}
<h2>Charts</h2>{% for chart in charts %}
<img alt="{{ chart.name }}" src="data:image/png;base64,{{ chart.data }}">{% endfor %}
{% if sheet %}<h2>Before and after</h2>
<img alt="photos before and after protection" src="data:image/png;base64,{{ sheet }}">{% endif %}
{% if facts.problems or facts.failures %}<h2>Not used, or failed</h2><ul>
{% for one in facts.problems %}<li>{{ one.name }}: {{ one.rule }}</li>{% endfor %}
{% for one in facts.failures %}<li>{{ one.photo }} ({{ one.method }}): {{ one.status }}</li>
{% endfor %}</ul>{% endif %}
<h2>How to reproduce it</h2><pre>{{ facts.config | tojson(indent=2) }}</pre>
<pre>{{ facts.weights | tojson(indent=2) }}</pre>
</body></html>
"""


def to_html(
    made: Sequence[Table], facts: Mapping[str, Any], charts: Sequence[Path], sheet: bytes | None
) -> str:
    """One page that holds everything; whatever a user named is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    # pandas escapes the cells.
    shown = [
        {"title": one.title, "html": jinja2.utils.markupsafe.Markup(one.shown.to_html(index=False))}
        for one in made
    ]
    pictures = [{"name": chart.stem, "data": _base64(chart.read_bytes())} for chart in charts]
    return environment.from_string(PAGE).render(
        style=STYLE, made=shown, facts=facts, charts=pictures, sheet=sheet and _base64(sheet)
    )


def contact_sheet(out: Path, photo_rows: Sequence[PhotoRow]) -> bytes | None:
    """PNG of some photos before and after the first method that changed them; None without any."""
    done = [row for row in photo_rows if row.status == "ok" and row.method != "none"]
    done = [row for row in done if row.method == done[0].method][:SHEET_PHOTOS]
    if not done:
        return None
    sheet = Image.new("RGB", (SHEET_SIDE * len(done), SHEET_SIDE * 2), "white")
    for column, row in enumerate(done):
        files = (
            photo_file(out, "source", row.photo),
            photo_file(out, row.method, row.photo, row.left_out),
        )
        for line, file in enumerate(files):
            picture = load_image(file)
            picture.thumbnail((SHEET_SIDE, SHEET_SIDE))
            sheet.paste(picture, (column * SHEET_SIDE, line * SHEET_SIDE))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def measure_features(
    pipe: MAPPipeline, out: Path, photos: Sequence[PhotoRow], network: FeatureNetwork
) -> pd.DataFrame:
    """Feature and Frechet distance of every method in the long form of `tables.means`.

    Sources and results are seen as crops, aligned where the face is in the source.

    Args:
        out: folder of the run.
    """
    seen: dict[str, list[tuple[float, Tensor, Tensor]]] = {}
    for row in photos:
        if row.status != "ok" or row.style != "plain":
            continue
        source, result = (
            to_array(load_image(photo_file(out, *names)))
            for names in (("source", row.photo), (row.method, row.photo, row.left_out))
        )
        if faces := pipe.face_detector.detect(source):
            place = torch.as_tensor(faces[0].landmarks)
            to_photo = similarity_transform(TEMPLATE, place)
            both = [network.see(crop_at(one, place, to_photo, SIDE)) for one in (source, result)]
            (maps, last), (maps_after, last_after) = both
            distance = feature_distance(maps, maps_after)
            seen.setdefault(row.method, []).append((distance, last, last_after))
    lines = []
    for method, values in seen.items():
        distances, first, second = zip(*values, strict=True)
        series = pd.Series(distances)
        lines.append((method, "feature_distance", series.mean(), series.std(), len(series)))
        if len(series) > 1:
            frechet = frechet_distance(torch.cat(first), torch.cat(second))
            lines.append((method, "frechet_distance", frechet, None, len(series)))
    return pd.DataFrame(lines, columns=["method", "measure", "mean", "std", "n"])


def weight_hashes(pipe: MAPPipeline, checkpoint: Path | None) -> dict[str, str]:
    """Component -> SHA-256: of its weight files, or of its tensors where there is no file."""
    hashes = {}
    for name, component in pipe.components.items():
        if not isinstance(component, Module):
            continue
        digest = hashlib.sha256()
        files = sorted((checkpoint / name).rglob("*.safetensors")) if checkpoint else []
        for file in files:
            digest.update(file.read_bytes())
        if not files:
            for key, tensor in sorted(component.state_dict().items()):
                digest.update(key.encode())
                digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        hashes[name] = digest.hexdigest()
    return hashes


def _facts(photo_rows: Sequence[PhotoRow], context: Context) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "map_pipeline": __version__}
    return {
        "config": dict(context.config),
        "versions": versions | {package: version(package) for package in PACKAGES},
        "detector": context.pipe.face_detector.name,
        "weights": dict(context.weights),
        "weights_date": context.pipe.config.get("weights_date"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "photos": len({row.photo for row in photo_rows if row.style == "plain"}),
        "probe": context.probe,
        "problems": [asdict(problem) for problem in context.problems],
        "failures": [
            {"photo": row.photo, "method": row.method, "status": row.status}
            for row in photo_rows
            if row.status != "ok"
        ],
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
