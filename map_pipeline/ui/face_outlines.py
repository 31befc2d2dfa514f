"""The faces of a photo as the page shows them: outlines with numbers, choices, remarks."""

from collections.abc import Mapping, Sequence
from html import escape

from map_pipeline.ui import texts
from map_pipeline.ui.face_choice import FoundFace

LABEL_SHARE = 0.045  # height of a number's label, as a share of the photo's longer side
LETTER = 0.42  # width of a letter in a label, as a share of its height


def outlines(
    size: tuple[int, int],
    faces: Sequence[FoundFace],
    picked: Sequence[int] = (),
    own: Mapping[int, str] | None = None,
    whose: int = 0,
) -> str:
    """An SVG that lies over the photo of `size` (width, height) px and outlines its faces.

    Where there are several, those that can be protected are to be clicked.

    Args:
        picked: numbers of the faces to protect.
        own: number of a face -> its own expression, written beside the number.
        whose: number of the face whose expression is being chosen, 0: that of all.
    """
    width, height = size
    unit = LABEL_SHARE * max(size)
    places = {one.number: place for place, one in enumerate(_possible(faces))}
    shapes = ""
    for face in faces:
        styles = ["map-face-clear" if face.clear else "map-face-unclear"]
        styles += ["map-face-left"] if face.number not in picked else []
        styles += ["map-face-turn"] if face.number == whose else []
        place = places.get(face.number) if len(faces) > 1 else None
        label = f"{face.number} {(own or {}).get(face.number, '')}".strip()
        shapes += _outline(face, unit, " ".join(styles), label, place)
    return (
        f'<svg class="map-outlines" viewBox="0 0 {width} {height}" role="img" '
        f'preserveAspectRatio="xMidYMid meet" aria-label="{escape(summary(faces))}">{shapes}</svg>'
    )


def choices(faces: Sequence[FoundFace]) -> list[tuple[str, int]]:
    """Label and number of each face that can be protected."""
    return [(_label(face), face.number) for face in _possible(faces)]


def turns(faces: Sequence[FoundFace], own: bool) -> list[tuple[str, int]]:
    """Label and number of each face that can have its own expression, after that of the others.

    Args:
        own: whether any face has its own.
    """
    return [
        ("All others" if own else "All", 0),
        *((str(face.number), face.number) for face in _possible(faces)),
    ]


def summary(faces: Sequence[FoundFace]) -> str:
    """One sentence about all faces; the reasons of those that can't be protected at all."""
    count = "1 face found." if len(faces) == 1 else f"{len(faces)} faces found."
    return " ".join([count, *_remarks(faces)])


def note(faces: Sequence[FoundFace]) -> str:
    """The reasons for people who see the outlines, and what to do with several faces."""
    return " ".join([*_remarks(faces), *([texts.PICKING] if len(faces) > 1 else [])])


def _remarks(faces: Sequence[FoundFace]) -> list[str]:
    impossible = [
        f"Face {face.number} can't be protected: {', '.join(face.problems) or 'too small'}."
        for face in faces
        if not face.possible
    ]
    doubtful = [
        f"Face {face.number} may not be protected well: {', '.join(face.problems)}."
        for face in _possible(faces)
        if face.problems
    ]
    return [*impossible, *doubtful]


def _possible(faces: Sequence[FoundFace]) -> list[FoundFace]:
    return [face for face in faces if face.possible]


def _label(face: FoundFace) -> str:
    return f"Face {face.number}" + (f" ({', '.join(face.problems)})" if face.problems else "")


def _outline(face: FoundFace, unit: float, styles: str, label: str, place: int | None) -> str:
    x0, y0, x1, y1 = face.box
    stroke = unit / 8
    wide = unit if len(label) == 1 else unit * (0.6 + LETTER * len(label))
    top = max(y0 - unit, 0)
    clicked = "" if place is None else f' data-place="{place}"'
    return (
        f'<g class="{styles}"{clicked}>'
        f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" '
        f'rx="{unit / 3:.1f}" stroke-width="{stroke:.1f}" class="map-face-box"/>'
        f'<g class="map-face-number">'
        f'<rect x="{x0:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{unit:.1f}" '
        f'rx="{unit / 4:.1f}" class="map-face-label"/>'
        f'<text x="{x0 + wide / 2:.1f}" y="{top + 0.73 * unit:.1f}" font-size="{0.7 * unit:.1f}" '
        f'text-anchor="middle">{escape(label)}</text></g></g>'
    )
