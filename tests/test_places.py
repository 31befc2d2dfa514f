"""Where faces are, as people say it."""

import pytest

from map_pipeline.places import places


def box(x: float, y: float, side: float = 10) -> tuple[float, float, float, float]:
    return x, y, x + side, y + side


LEFT, MIDDLE, RIGHT = "the one on the left", "the one in the middle", "the one on the right"
TOP, BOTTOM = "the one at the top", "the one at the bottom"
NEXT = [f"the {turn} from the left" for turn in ("2nd", "3rd", "4th")]


@pytest.mark.parametrize(
    ("boxes", "answer"),
    [
        ([box(50, 0), box(0, 4)], [RIGHT, LEFT]),
        ([box(50, 0), box(0, 90)], [RIGHT, LEFT]),
        ([box(2, 0), box(0, 90)], [TOP, BOTTOM]),
        ([box(20, 3), box(40, 0), box(0, 5)], [MIDDLE, RIGHT, LEFT]),
        ([box(20 * turn, turn) for turn in range(5)], [LEFT, *NEXT, RIGHT]),
        ([box(2, 40), box(1, 20), box(0, 0)], [BOTTOM, MIDDLE, TOP]),
        (
            [box(0, 0), box(30, 30), box(30, 0), box(0, 30)],
            [f"{TOP} left", f"{BOTTOM} right", f"{TOP} right", f"{BOTTOM} left"],
        ),
        # In no order that can be named at a glance: by number, the largest is the first.
        ([box(0, 0, 9), box(30, 30, 12), box(30, 0, 10)], ["face 3", "face 1", "face 2"]),
        (
            [box(0, 0, 9), box(2, 20), box(3, 40, 11), box(40, 80, 12)],
            [f"face {n}" for n in (4, 3, 2, 1)],
        ),
    ],
)
def test_faces_are_distinguished(boxes: list, answer: list[str]) -> None:
    assert places(boxes) == answer
