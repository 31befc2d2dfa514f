import copy
import pickle

import numpy as np
import pytest

from map_pipeline.faces.boxes import (
    MAX_TILES,
    BoxFinder,
    level_scales,
    suppress_overlaps,
    tile_corners,
)


@pytest.mark.parametrize(
    "size", [(320, 240), (512, 512), (4000, 3000), (20000, 2500), (8660, 5773)]
)
def test_pyramid_is_bounded_and_covers_the_photo(size: tuple[int, int]) -> None:
    scales = level_scales(*size)
    assert scales == sorted(scales)
    total = 0
    for scale in scales:
        width, height = round(size[0] * scale), round(size[1] * scale)
        covered = np.zeros((height, width), bool)
        for x, y in tile_corners(width, height):
            covered[y : y + 240, x : x + 320] = True
            total += 1
        assert covered.all()
    assert total <= MAX_TILES


def test_a_used_finder_can_be_copied() -> None:
    finder = BoxFinder()
    photo = np.zeros((96, 96, 3), np.uint8)
    finder.find(photo)
    for twin in (copy.deepcopy(finder), pickle.loads(pickle.dumps(finder))):
        np.testing.assert_array_equal(twin.find(photo)[0], finder.find(photo)[0])


def test_suppression_keeps_the_best_box_of_a_place() -> None:
    """A box within another, or half on it, may be of somebody else: landmarks will decide."""
    boxes = np.array(
        [[0, 0, 100, 100], [5, 5, 105, 105], [20, 20, 50, 50], [55, 5, 155, 105]], np.float32
    )
    scores = np.array([0.9, 0.99, 0.97, 0.8], np.float32)
    assert suppress_overlaps(boxes, scores).tolist() == [1, 2, 3]
    assert suppress_overlaps(boxes[:0], scores[:0]).tolist() == []


@pytest.mark.parametrize("shift", [(45, 0), (0, 45), (30, 30)])
def test_boxes_of_two_equal_heads_close_together_are_kept(shift: tuple[int, int]) -> None:
    box = np.array([100, 100, 200, 215], np.float32)
    boxes = np.stack([box, box + np.tile(np.float32(shift), 2)])
    assert suppress_overlaps(boxes, np.array([0.99, 0.98], np.float32)).tolist() == [0, 1]
