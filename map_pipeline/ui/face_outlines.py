"""The faces of a photo as the page shows them: outlines with numbers, choices, remarks."""

from collections.abc import Sequence
from html import escape

from map_pipeline.ui.service import FoundFace

LABEL_SHARE = 0.045  # height of a number's label, as a share of the photo's longer side


def outlines(size: tuple[int, int], faces: Sequence[FoundFace]) -> str:
    """An SVG that lies over the photo of `size` (width, height) px and outlines its faces."""
    width, height = size
    unit = LABEL_SHARE * max(size)
    shapes = "".join(_outline(face, unit) for face in faces)
    return (
        f'<svg class="map-outlines" viewBox="0 0 {width} {height}" role="img" '
        f'preserveAspectRatio="xMidYMid meet" aria-label="{escape(summary(faces))}">{shapes}</svg>'
    )


def choices(faces: Sequence[FoundFace]) -> list[tuple[str, int]]:
    """Label and number of each face that can be protected."""
    return [(_label(face), face.number) for face in faces if face.possible]


def summary(faces: Sequence[FoundFace]) -> str:
    """One sentence about all faces; the reasons of those that can't be protected at all."""
    count = "1 face found." if len(faces) == 1 else f"{len(faces)} faces found."
    impossible = [
        f"Face {face.number} can't be protected: {', '.join(face.problems) or 'too small'}."
        for face in faces
        if not face.possible
    ]
    doubtful = [
        f"Face {face.number} may not work well: {', '.join(face.problems)}."
        for face in faces
        if face.possible and face.problems
    ]
    return " ".join([count, *impossible, *doubtful])


def note(faces: Sequence[FoundFace]) -> str:
    """The same for people who see the outlines; nothing about a single clear face."""
    return "" if [one.clear for one in faces] == [True] else summary(faces)


def _label(face: FoundFace) -> str:
    return f"Face {face.number}" + (f" ({', '.join(face.problems)})" if face.problems else "")


def _outline(face: FoundFace, unit: float) -> str:
    x0, y0, x1, y1 = face.box
    kind = "clear" if face.clear else "unclear"
    stroke, label = unit / 8, f"{unit:.1f}"
    top = max(y0 - unit, 0)
    return (
        f'<g class="map-face-{kind}">'
        f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" '
        f'rx="{unit / 3:.1f}" stroke-width="{stroke:.1f}" class="map-face-box"/>'
        f'<rect x="{x0:.1f}" y="{top:.1f}" width="{label}" height="{label}" '
        f'rx="{unit / 4:.1f}" class="map-face-label"/>'
        f'<text x="{x0 + unit / 2:.1f}" y="{top + 0.73 * unit:.1f}" font-size="{0.7 * unit:.1f}" '
        f'text-anchor="middle">{face.number}</text></g>'
    )
