"""Where in a photo its faces are, as people say it: "the one on the left"."""

from collections.abc import Sequence

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 px

ROW = ("on the left", "in the middle", "on the right")
COLUMN = ("at the top", "in the middle", "at the bottom")
CORNERS = ("at the top left", "at the top right", "at the bottom left", "at the bottom right")
ORDINALS = {2: "2nd", 3: "3rd"}


def places(boxes: Sequence[Box]) -> list[str]:
    """What distinguishes each of several faces, in the order of their boxes.

    Two faces, and more in a row or a column, are named by their turn in it, four in the corners by
    these, and all others by their number.
    """
    if _in_line(boxes, 1):
        return _turns(boxes, 0, ROW)
    if _in_line(boxes, 0):
        return _turns(boxes, 1, COLUMN)
    if len(boxes) == 2:
        return _turns(boxes, 0, ROW)
    if len(boxes) == 4 and (corners := _corners(boxes)):
        return corners
    return [f"face {number}" for number in numbers(boxes)]


def numbers(boxes: Sequence[Box]) -> list[int]:
    """The number of each face, 1 for the largest, as the page writes it on the photo."""
    largest = sorted(range(len(boxes)), key=lambda place: -_area(boxes[place]))
    return [largest.index(place) + 1 for place in range(len(boxes))]


def _in_line(boxes: Sequence[Box], axis: int) -> bool:
    """Whether all faces have something in common on this axis (0 across, 1 down)."""
    return max(box[axis] for box in boxes) < min(box[axis + 2] for box in boxes)


def _turns(boxes: Sequence[Box], axis: int, words: Sequence[str]) -> list[str]:
    centres = [_centre(box, axis) for box in boxes]
    order, last = sorted(range(len(boxes)), key=centres.__getitem__), len(boxes) - 1
    start = words[0].removeprefix("on ").removeprefix("at ")

    def name(turn: int) -> str:
        if turn == 0:
            return f"the one {words[0]}"
        if turn == last:
            return f"the one {words[2]}"
        if last == 2:
            return f"the one {words[1]}"
        return f"the {ORDINALS.get(turn + 1, f'{turn + 1}th')} from {start}"

    return [name(order.index(place)) for place in range(len(boxes))]


def _corners(boxes: Sequence[Box]) -> list[str]:
    """The corner of each of four faces; none if two are in the same one."""
    middle = [sum(_centre(box, axis) for box in boxes) / len(boxes) for axis in (0, 1)]
    found = [2 * (_centre(box, 1) > middle[1]) + (_centre(box, 0) > middle[0]) for box in boxes]
    if len(set(found)) < len(boxes):
        return []
    return [f"the one {CORNERS[corner]}" for corner in found]


def _centre(box: Box, axis: int) -> float:
    return (box[axis] + box[axis + 2]) / 2


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
