"""A result in words and tables, the verdict first: how many programs still find the visitor."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from map_pipeline.config import EMOTIONS
from map_pipeline.report import (
    EXPRESSION_HEADER,
    RECOGNISER_HEADER,
    UNCLEAR_FACE,
    FaceReport,
    count_matches,
    doubtful_faces,
    expression_row,
    face_numbers,
    notes_of,
    recogniser_row,
    unprotected_faces,
)
from map_pipeline.ui import texts
from map_pipeline.ui.service import Progress
from map_pipeline.ui.settings import Choices
from map_pipeline.verdict import LEVELS, Level, count_text, headline, join_names, protection_level

# The page is shown before torch is loaded, which this module needs.
if TYPE_CHECKING:
    from map_pipeline.compare import Comparison, PhotoComparison, PhotoFaces
    from map_pipeline.report import RecogniserReport
    from map_pipeline.video.report import ClipVerdict, VideoReport


def verdict(reports: Sequence[FaceReport], mode: str) -> str:
    """Would software still find the visitor? The answer as HTML: counts first, then the reasons.

    Args:
        reports: of all protected faces.
        mode: how they were protected; what could help more depends on it.
    """
    lines = [*_doubts(reports), *_face_lines(reports), *_notes(notes_of(reports))]
    found, total = count_matches(reports)
    level = verdict_level(reports)
    if total == 0:
        return box(level, headline(reports), lines)
    # What helps in fast mode is a button beside the verdict.
    more = [texts.SAME_PHOTO, *([texts.ADVICE] if found and mode != "fast" else [])]
    return box(level, headline(reports), [*lines, *more])


def verdict_level(reports: Sequence[FaceReport]) -> Level:
    """How well a photo is protected; what can't be said, or is only true of some faces: partly."""
    found, total = count_matches(reports)
    if total == 0:
        return "partly"
    level = protection_level(found, total)
    left = unprotected_faces(reports) or doubtful_faces(reports)
    return "partly" if level == "protected" and left else level


def verdict_by_other(
    reports: Sequence[FaceReport], before: "Sequence[Comparison]", after: "Sequence[Comparison]"
) -> str:
    """The same by another photo of the visitor: only programs count that found them in it before.

    Args:
        reports: of all protected faces.
        before: of the other photo and the unprotected face; after: and the protected one.
    """
    knew = [one for one in before if one.matches]
    if not knew:
        return box("partly", texts.STRANGER, [texts.STRANGER_HINT])
    names = {one.name for one in knew}
    still = [one.title for one in after if one.name in names and one.matches]
    level = protection_level(len(still), len(knew))
    text = f"{LEVELS[level]}: {count_text(len(knew), still, len(still))}"
    judges = sum(one.matches is not None for one in before)
    compared = f"Compared with your other photo, in which {len(knew)} of {judges} found you before."
    return box(level, text, [compared, *_doubts(reports), *_face_lines(reports)])


def plain_verdict(reports: Sequence[FaceReport]) -> str:
    """The verdict as text for clients of the API: of the photo, then a line for each face."""
    lines = [*_doubts(reports), *_face_lines(reports), *_notes(notes_of(reports))]
    return "\n".join([headline(reports), *lines])


def clip_verdict(report: "VideoReport") -> str:
    """Would software still find the people of a clip? The answer as HTML, with its reasons."""
    return box(report.level, report.headline(), _clip_lines(report))


def plain_clip_verdict(report: "VideoReport") -> str:
    """The same as text for clients of the API."""
    return "\n".join([report.headline(), *_clip_lines(report)])


def tables(reports: Sequence[FaceReport]) -> str:
    """All numbers of the reports as HTML tables, faces below each other."""
    recognisers = [
        [str(number), *recogniser_row(one)]
        for number, face in zip(face_numbers(reports), reports, strict=True)
        for one in face.recognisers
    ]
    expressions = [
        [str(number), *expression_row(one, face)]
        for number, face in zip(face_numbers(reports), reports, strict=True)
        for one in face.expressions
    ]
    return _table(
        "Similarity before → after, by program", ("face", *RECOGNISER_HEADER), recognisers
    ) + _table("Expression before → after", ("face", *EXPRESSION_HEADER), expressions)


def details(reports: Sequence[FaceReport], seed: int) -> str:
    """One line about how the result was made."""
    face = reports[0]
    seconds = sum(one.seconds for one in reports)
    return (
        f'<p class="map-note">Stand-in: {escape(texts.caption(face.target or "nobody"))} · '
        f"{escape(face.asked)} · seed {seed} · "
        f"{seconds:.1f} s · structural similarity of the face {face.ssim:.2f} · "
        f"faces found by {escape(face.detector)}</p>"
    )


def preview(picture: Image.Image, choices: Choices) -> str:
    """An edited but unprotected photo to lie over the upload, as HTML that holds the picture."""
    chosen = (choices.emotion, *(choices.emotions or {}).values())
    names = [emotion.replace("_", " ") for emotion in dict.fromkeys(chosen)]
    shown = "copied" if choices.expression_of else join_names(names)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90, subsampling=0)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<div class="map-preview"><img src="data:image/jpeg;base64,{data}" '
        f'alt="Preview: {escape(shown)}, {choices.expression_strength:.0%}. '
        'Not protected yet."/>'
        f'<p role="status">{texts.PREVIEW}</p>'
        # Without the attribute iPhones know no pressed state.
        f'<button type="button" ontouchstart="">{texts.SHOW_ORIGINAL}</button></div>'
    )


def note(text: str) -> str:
    """A remark as HTML; nothing for no text."""
    return f'<p class="map-note">{escape(text)}</p>' if text else ""


def progress_bar(progress: Progress) -> str:
    """What is going on while a visitor waits, as HTML."""
    percent = round(100 * progress.done / max(progress.total, 1))
    steps = f"step {progress.done} of {progress.total}" if progress.total > 1 else ""
    steps = steps if progress.left is None else progress.left
    return (
        '<div class="map-progress" role="status"><div class="map-progress-text">'
        f"<span>{escape(progress.text)} …</span><span>{steps}</span></div>"
        f'<div class="map-progress-track" role="progressbar" aria-label="{escape(progress.text)}" '
        f'aria-valuenow="{percent}" aria-valuemin="0" aria-valuemax="100">'
        f'<div style="width: {max(percent, 3)}%"></div></div></div>'
    )


def compared_faces(found: "PhotoComparison") -> str:
    """Which face of each of two photos was compared and what speaks against it, as HTML."""
    photos = {"First photo": found.first, "Second photo": found.second}
    notes = [f"{name}: {_compared(seen)}." for name, seen in photos.items()]
    problems = [
        f"{name}: the face is {', '.join(face.problems)}."
        for name, seen in photos.items()
        for face in seen.faces
        if face.compared and face.problems
    ]
    warning = box("partly", UNCLEAR_FACE, problems, question="") if problems else ""
    return warning + "".join(f'<p class="map-note">{escape(note)}</p>' for note in notes)


def _compared(seen: "PhotoFaces") -> str:
    [compared] = [face.box for face in seen.faces if face.compared]
    x0, y0, x1, y1 = (round(corner) for corner in compared)
    text = "1 face found"
    if len(seen.faces) > 1:
        text = (
            f"{len(seen.faces)} faces found, and the largest compared, at {x0},{y0} - {x1},{y1} px"
        )
    more = len(seen.doubtful)
    return f"{text}; there may be {more} more, rotated or half hidden" if more else text


def _clip_lines(report: "VideoReport") -> list[str]:
    """A line for each person of a clip, and what the figures are about."""
    lines = []
    for number, person in enumerate(report.people, 1):
        judges = [one for one in person.recognisers if one.threshold is not None]
        found = sum(not one.meets("dodging") for one in judges)
        text = ""
        if len(report.people) > 1:
            text = f"Person {number}: " + (f"Found by {found} of {len(judges)}. " if judges else "")
        lines.append(f"{text}Changed in {person.frames} of {report.frames} frames: {person.asked}.")
    unused = _unused_line(report.people[0].recognisers)
    return [*lines, unused, texts.SAME_CLIP, *_notes(report.notes)]


def _notes(notes: Sequence[str]) -> list[str]:
    return [f"{note[0].upper()}{note[1:]}." for note in notes]


def _doubts(reports: Sequence[FaceReport]) -> list[str]:
    count = len(doubtful_faces(reports))
    return [texts.doubts(count)] if count else []


def _face_lines(reports: Sequence[FaceReport]) -> list[str]:
    """What people and programs see of one face, or in one line each of several."""
    if len(reports) == 1:
        lines = [_people_line(reports[0]), _programs_line(reports[0])]
    else:
        lines = [
            f"Face {number}: {_found(face)}{_programs_line(face)} {_people_line(face)}"
            for number, face in zip(face_numbers(reports), reports, strict=True)
        ]
    return [*(one for one in lines if one), _unused_line(reports[0].recognisers)]


def _found(face: FaceReport) -> str:
    found, total = count_matches([face])
    return f"Found by {found} of {total}. "


def _programs_line(face: FaceReport) -> str:
    judges = [one for one in face.recognisers if one.impersonates is not None]
    if face.target is None or not judges:
        return ""
    fooled = sum(bool(one.impersonates) for one in judges)
    verb = "takes" if fooled == 1 else "take"
    return f"{fooled} of {len(judges)} {verb} it for the stand-in, “{texts.caption(face.target)}”."


def _unused_line(recognisers: "Sequence[RecogniserReport | ClipVerdict]") -> str:
    unseen = [one.title for one in recognisers if not one.used_in_optimisation]
    if not unseen:
        return "All programs here were used in the editing; others may still find you."
    verb = "was" if len(unseen) == 1 else "were"
    return f"{join_names(unseen)} {verb} not used in the editing."


def _people_line(face: FaceReport) -> str:
    """What people see: which expression, and how much of the face's look has changed."""
    changed = f"{max(0.0, 1 - face.ssim):.0%} of the face's look has changed."
    asked = texts.EXPRESSIONS[face.emotion]
    if face.emotion not in EMOTIONS:  # no program here knows it
        return f"Meant to be {asked} face; {changed}"
    likely = {
        emotion: sum(one.after[emotion] for one in face.expressions)
        for emotion in (face.expressions[0].after if face.expressions else ())
    }
    seen = texts.EXPRESSIONS[max(likely, key=likely.__getitem__, default=face.emotion)]
    if seen == asked or face.expression_of:
        return f"People see {seen} face; {changed}"
    return f"Meant to be {asked} face, looks more like {seen} one; {changed}"


def box(level: Level, headline: str, lines: Sequence[str], question: str = texts.QUESTION) -> str:
    """The answer to a question as HTML, with a mark and the reasons."""
    mark = {"protected": "✓", "partly": "!", "not": "✗"}[level]
    asked = f"<p>{question}</p>" if question else ""
    body = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return (
        f'<div class="map-verdict map-verdict-{level}" role="status">'
        f'<span class="map-verdict-mark" aria-hidden="true">{mark}</span>'
        f"<div>{asked}<p><b>{escape(headline)}</b></p>{body}</div></div>"
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
