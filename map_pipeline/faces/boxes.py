"""Face boxes from the bundled RFB-320 network, searched over a pyramid of overlapping tiles.

The network sees 320 x 240 px and finds faces from about 16 px up, so one look at a large photo
misses small faces. The photo is therefore searched at its reduced size, at twice that size, and so
on, each time in tiles of 320 x 240 px.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from map_pipeline.checksums import read_checked

TILE_WIDTH, TILE_HEIGHT = 320, 240  # the network's input, px
SCORE_THRESHOLD = 0.7  # usual for this network; upright faces score > 0.95
# Boxes that overlap more are of one face. Others may be, too, or of two heads that are close, or of
# a child before an adult: only landmarks can decide.
NMS_IOU = 0.5
# Those others: they overlap by more than this, or one lies in the other by this share of its area.
NESTED_IOU, NESTED_SHARE = 0.3, 0.7
# Smaller boxes, photo px, are mostly texture (grass, gravel) and are of no use to anybody.
MIN_BOX_SIDE = 20
# Share by which neighbouring tiles overlap: a face up to a quarter of a tile is whole in one of
# them, and a larger one is at least an eighth of a tile wide one level up, where it is found.
TILE_OVERLAP = 0.25
# The pyramid ends where a face of 40 px, the smallest that can be protected, has 20 px.
FINEST_SCALE = 0.5
# Bound on the work for one photo (12 megapixels take about 130); finer levels are left out.
MAX_TILES = 200
# From so many px on, every second row and column is enough: `FINEST_SCALE` halves them anyway.
LARGE_PIXELS = 60_000_000


class OnnxNetwork:
    """A bundled network on onnxruntime's CPU provider, opened on first use; thread-safe."""

    def __init__(self, file_name: str) -> None:
        self._file_name = file_name
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type, tuple[str]]:
        """A lock and an open session can't be pickled; a copy opens its own."""
        return type(self), (self._file_name,)

    def __call__(self, array: np.ndarray) -> list[np.ndarray]:
        """Run the network on its one input."""
        with self._lock:  # cached_property alone could open two sessions
            session = self._session
        return session.run(None, {"input": array})

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        folder = Path(str(files("map_pipeline.faces") / "weights"))
        weights = read_checked(folder, self._file_name)
        # Where onnxruntime was imported before this package, which else turns its telemetry off.
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        # The networks are tiny: a second thread gains little alone and halves the speed of a busy
        # machine (6.5 against 14 ms a tile at twice as many jobs as cores).
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])


class BoxFinder:
    """Finds upright and moderately turned faces (roll up to about 45 degrees)."""

    def __init__(self) -> None:
        self._network = OnnxNetwork("rfb320.onnx")

    def find(self, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes `[N, 4]` (x0, y0, x1, y1 photo px, clipped) and scores `[N]` in [0, 1].

        Args:
            photo: uint8 RGB `[H, W, 3]`.
        """
        height, width = photo.shape[:2]
        found = [self._find_at(photo, scale) for scale in level_scales(width, height)]
        boxes = np.concatenate([boxes for boxes, _ in found])
        scores = np.concatenate([scores for _, scores in found])
        boxes = boxes.clip(0, [width, height, width, height]).astype(np.float32)
        keep = suppress_overlaps(boxes, scores)
        keep = keep[(boxes[keep, 2:] - boxes[keep, :2]).min(-1) >= MIN_BOX_SIDE]
        return boxes[keep], scores[keep]

    def _find_at(self, photo: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Boxes in photo px and scores of one pyramid level."""
        height, width = photo.shape[:2]
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        level = shrink(photo, size)
        found = [self._find_in_tile(level, x, y) for x, y in tile_corners(*size)]
        boxes = np.concatenate([boxes for boxes, _ in found])
        factor = np.tile([width / size[0], height / size[1]], 2)
        return boxes * factor, np.concatenate([scores for _, scores in found])

    def _find_in_tile(self, level: np.ndarray, x: int, y: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes in level px and scores of the tile with its corner at (x, y)."""
        part = level[y : y + TILE_HEIGHT, x : x + TILE_WIDTH]
        tile = np.full((TILE_HEIGHT, TILE_WIDTH, 3), 127, np.uint8)  # 127 is the network's zero
        tile[: part.shape[0], : part.shape[1]] = part
        batch = ((tile.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]
        scores, boxes = self._network(np.ascontiguousarray(batch))
        scores, boxes = scores[0, :, 1], boxes[0] * np.tile([TILE_WIDTH, TILE_HEIGHT], 2)
        keep = (scores >= SCORE_THRESHOLD) & ~_is_cut(boxes, level.shape, x, y)
        return boxes[keep] + np.tile([x, y], 2), scores[keep]


def shrink(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A photo `uint8 [H,W,3]` at another size (width, height), px.

    Of a very large one only every second row and column is looked at, so that it isn't copied.
    """
    step = 2 if photo.shape[0] * photo.shape[1] > LARGE_PIXELS else 1
    image = Image.fromarray(photo[::step, ::step])
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def level_scales(width: int, height: int) -> list[float]:
    """Scales of the pyramid's levels, coarsest first, within `MAX_TILES` tiles in all."""
    scales = [min(TILE_WIDTH / width, TILE_HEIGHT / height)]
    tiles = 1
    while scales[-1] < FINEST_SCALE:
        scale = min(scales[-1] * 2, 1.0)
        tiles += sum(1 for _ in tile_corners(round(width * scale), round(height * scale)))
        if tiles > MAX_TILES:
            break
        scales.append(scale)
    return scales


def tile_corners(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Corners (x, y) of evenly spread tiles that cover a level of this size."""
    for y in _starts(height, TILE_HEIGHT):
        for x in _starts(width, TILE_WIDTH):
            yield x, y


def suppress_overlaps(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Indices of the boxes to keep, best first: each beats those that cover the same place."""
    areas = box_area(boxes)
    # Scores saturate near 1: of two like ones the larger box is the whole face.
    order = np.lexsort((-areas, -scores.round(2)))
    keep: list[int] = []
    while order.size:
        best, order = int(order[0]), order[1:]
        keep.append(best)
        order = order[iou(boxes[best], boxes[order]) <= NMS_IOU]
    return np.array(keep, dtype=int)


def intersection(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Area `[N]` in px that `box` `[4]` shares with each of `boxes` `[N, 4]`."""
    # Column by column: in a crowd there are millions, and products along an axis of two are slow.
    width = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
    height = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
    return np.maximum(width, 0) * np.maximum(height, 0)


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Area in px of boxes `[..., 4]`."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union `[N]` of `box` `[4]` with each of `boxes` `[N, 4]`."""
    shared = intersection(box, boxes)
    area, areas = box_area(box), box_area(boxes)
    return shared / np.maximum(area + areas - shared, 1e-9)


def is_nested(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which of `boxes` `[N, 4]` may show the same head as `box` `[4]`, or a part of it."""
    shared = intersection(box, boxes)
    area, areas = box_area(box), box_area(boxes)
    inside = shared / np.maximum(np.minimum(area, areas), 1e-9)
    return (iou(box, boxes) > NESTED_IOU) | (inside > NESTED_SHARE)


def _starts(length: int, tile: int) -> list[int]:
    if length <= tile:
        return [0]
    count = 1 + math.ceil((length - tile) / (tile * (1 - TILE_OVERLAP)))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _is_cut(boxes: np.ndarray, level_shape: tuple[int, ...], x: int, y: int) -> np.ndarray:
    """Which boxes `[N, 4]` (tile px) reach an edge of the tile that isn't the photo's edge."""
    return (
        ((boxes[:, 0] < 1) & (x > 0))
        | ((boxes[:, 1] < 1) & (y > 0))
        | ((boxes[:, 2] > TILE_WIDTH - 1) & (x + TILE_WIDTH < level_shape[1]))
        | ((boxes[:, 3] > TILE_HEIGHT - 1) & (y + TILE_HEIGHT < level_shape[0]))
    )
