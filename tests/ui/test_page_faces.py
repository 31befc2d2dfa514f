"""How the page chooses the faces of a photo and outlines them, without a server."""

import re

import pytest

from map_pipeline.errors import FaceTooSmallError, NoFaceError, UnknownOptionError
from map_pipeline.ui import face_outlines
from map_pipeline.ui.service import FoundFace, choose_faces


def face(number: int, *problems: str, possible: bool = True) -> FoundFace:
    return FoundFace(number, (10.0 * number, 20.0, 10.0 * number + 8, 30.0), problems, possible)


def test_all_clear_faces_are_chosen_by_default() -> None:
    found = [face(1), face(2, "turned to the side"), face(3), face(4, "too small", possible=False)]
    assert [one.number for one in choose_faces(found, [])] == [1, 3]
    assert [one.number for one in choose_faces(found, [2])] == [2]


def test_faces_that_cannot_be_chosen_are_named() -> None:
    found = [face(1, "turned to the side"), face(2, "too small", possible=False)]
    with pytest.raises(NoFaceError, match="face 1 is turned to the side; face 2 is too small"):
        choose_faces(found, [])
    with pytest.raises(FaceTooSmallError, match="Face 2 can't be protected: it's too small"):
        choose_faces(found, [1, 2])
    with pytest.raises(NoFaceError, match=r"from 1 to 2.*\[3\]"):
        choose_faces(found, [3])


def test_a_crowd_is_protected_in_parts() -> None:
    crowd = [face(number) for number in range(1, 13)]
    assert [one.number for one in choose_faces(crowd, [])] == list(range(1, 9))
    with pytest.raises(UnknownOptionError, match="at most 8 at once, got 9"):
        choose_faces(crowd, list(range(1, 10)))


def test_faces_are_outlined_numbered_and_named() -> None:
    found = [face(1), face(2, "turned to the side"), face(3, "too small", possible=False)]
    drawn = face_outlines.outlines((400, 200), found)
    assert 'viewBox="0 0 400 200"' in drawn
    assert drawn.count("map-face-clear") == 1
    assert drawn.count("map-face-unclear") == 2
    assert all(f">{number}</text>" in drawn for number in (1, 2, 3))
    assert face_outlines.choices(found) == [("Face 1", 1), ("Face 2 (turned to the side)", 2)]
    assert "Face 3 can't be protected: too small." in face_outlines.summary(found)
    assert "Face 3 can't be protected: too small." in face_outlines.note(found)
    assert "Face 2 may not be protected well: turned to the side." in face_outlines.note(found)
    assert face_outlines.note([face(1)]) == ""


def test_outlines_tell_who_is_picked_and_with_which_expression() -> None:
    found = [face(1), face(2, "too small", possible=False), face(3)]
    first, second, third = re.findall(
        r'<g class="map-face-(?:un)?clear.*?</g></g>',
        face_outlines.outlines((400, 200), found, picked=[3], own={3: "sad"}, whose=3),
    )
    assert "map-face-left" in first
    assert "map-face-left" in second
    assert "map-face-left" not in third
    # Places are those among the checkboxes, which only faces have that can be protected.
    assert 'data-place="0"' in first
    assert "data-place" not in second
    assert 'data-place="1"' in third
    assert "map-face-turn" in third
    assert ">3 sad</text>" in third
    assert "data-place" not in face_outlines.outlines((400, 200), [face(1)], [1])
    assert face_outlines.turns(found, own=False) == [("All", 0), ("1", 1), ("3", 3)]
