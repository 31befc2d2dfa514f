"""A result in words and tables: verdict first, and honest failure before success."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from map_pipeline.report import (
    EXPRESSION_HEADER,
    RECOGNISER_HEADER,
    FaceReport,
    advice,
    doubtful_faces,
    expression_row,
    headline,
    judged,
    notes_of,
    recogniser_row,
    remaining_matches,
    unprotected_faces,
)
from map_pipeline.ui import texts
from map_pipeline.ui.service import Progress


def verdict(reports: Sequence[FaceReport], mode: str) -> str:
    """The result in plain words, as HTML; what didn't work comes first.

    Args:
        reports: of all protected faces.
        mode: how they were protected; what could help more depends on it.
    """
    lines = _lines(reports)
    if not judged(reports):
        return _box("warn", headline(reports), [*_doubts(reports), *_notes(reports)])
    if remaining_matches(reports):
        return _box("warn", headline(reports), [*lines, texts.SAME_PHOTO, advice(mode)])
    complete = not unprotected_faces(reports) and not doubtful_faces(reports)
    return _box("good" if complete else "warn", headline(reports), lines)


def plain_verdict(reports: Sequence[FaceReport]) -> str:
    """The verdict as text for clients of the API: of the photo, then a line for each face."""
    return "\n".join([headline(reports), *_lines(reports)])


def tables(reports: Sequence[FaceReport]) -> str:
    """All numbers of the reports as HTML tables, faces below each other."""
    recognisers = [
        [str(number), *recogniser_row(one)]
        for number, face in enumerate(reports, 1)
        for one in face.recognisers
    ]
    expressions = [
        [str(number), *expression_row(one, face)]
        for number, face in enumerate(reports, 1)
        for one in face.expressions
    ]
    return _table(
        "Similarity before → after, by recogniser", ("face", *RECOGNISER_HEADER), recognisers
    ) + _table("Expression before → after", ("face", *EXPRESSION_HEADER), expressions)


def details(reports: Sequence[FaceReport], seed: int) -> str:
    """One line about how the result was made."""
    face = reports[0]
    seconds = sum(one.seconds for one in reports)
    return (
        f'<p class="map-note">Target: {escape(texts.caption(face.target or "nobody"))} · '
        f"seed {seed} · "
        f"{seconds:.1f} s · structural similarity of the face {face.ssim:.2f} · "
        f"faces found by {escape(face.detector)}</p>"
    )


def preview(picture: Image.Image, emotion: str, strength: float) -> str:
    """An edited but unprotected photo to lie over the upload, as HTML that holds the picture."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90, subsampling=0)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<div class="map-preview"><img src="data:image/jpeg;base64,{data}" '
        f'alt="Preview: {escape(emotion)}, {strength:.0%}. Not protected yet."/>'
        f'<p role="status">{texts.PREVIEW}</p>'
        # Without the attribute iPhones know no pressed state.
        f'<button type="button" ontouchstart="">{texts.SHOW_ORIGINAL}</button></div>'
    )


def progress_bar(progress: Progress) -> str:
    """What is going on while a visitor waits, as HTML."""
    percent = round(100 * progress.done / max(progress.total, 1))
    steps = f"step {progress.done} of {progress.total}" if progress.total > 1 else ""
    return (
        '<div class="map-progress" role="status"><div class="map-progress-text">'
        f"<span>{escape(progress.text)} …</span><span>{steps}</span></div>"
        f'<div class="map-progress-track" role="progressbar" aria-label="{escape(progress.text)}" '
        f'aria-valuenow="{percent}" aria-valuemin="0" aria-valuemax="100">'
        f'<div style="width: {max(percent, 3)}%"></div></div></div>'
    )


def _lines(reports: Sequence[FaceReport]) -> list[str]:
    lines = [_face_line(face, number, len(reports)) for number, face in enumerate(reports, 1)]
    return [*_doubts(reports), *lines, *_notes(reports)]


def _notes(reports: Sequence[FaceReport]) -> list[str]:
    return [f"{note[0].upper()}{note[1:]}." for note in notes_of(reports)]


def _doubts(reports: Sequence[FaceReport]) -> list[str]:
    count = len(doubtful_faces(reports))
    return [texts.doubts(count)] if count else []


def _face_line(face: FaceReport, number: int, faces: int) -> str:
    verdicts = [one for one in face.recognisers if one.no_longer_matches is not None]
    total = len(verdicts)
    unmatched = sum(bool(one.no_longer_matches) for one in verdicts)
    fooled = sum(bool(one.impersonates) for one in verdicts)
    unseen = [one.title for one in verdicts if not one.used_in_optimisation]
    if not unseen:
        used = "all of them were used in the editing, others may see less of a change"
    elif len(unseen) == 1:
        used = f"one of them, {unseen[0]}, was not used in the editing"
    else:
        used = f"{len(unseen)} of them were not used in the editing"
    prefix = f"Face {number}: " if faces > 1 else ""
    seen = "" if face.target is None else f"{fooled} of {total} see the target; "
    return f"{prefix}{unmatched} of {total} recognisers no longer match you; {seen}{used}."


def _box(kind: str, headline: str, lines: Sequence[str]) -> str:
    mark = {"good": "✓", "warn": "!"}[kind]
    body = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return (
        f'<div class="map-verdict map-verdict-{kind}" role="status">'
        f'<span class="map-verdict-mark" aria-hidden="true">{mark}</span>'
        f"<div><p><b>{escape(headline)}</b></p>{body}</div></div>"
    )


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<div class="map-scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
        f'<table class="map-table"><caption>{escape(title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
