"""What live previews need of an upload, kept in memory for a few minutes and nowhere else."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from PIL import Image

# The page is shown before torch is loaded.
if TYPE_CHECKING:
    from torch import Tensor

    from map_pipeline.copying import ShownExpression
    from map_pipeline.expression.editor import EditableFace, ExpressionModel
    from map_pipeline.faces.face import Face
    from map_pipeline.pipeline import MAPPipeline
    from map_pipeline.ui.face_choice import FoundFace
    from map_pipeline.ui.settings import Choices

Made = TypeVar("Made")
PREVIEW_SIDE = 1024  # px, the longer side at most: as large as the page shows a photo
MOST_UPLOADS = 16  # that are kept at once; a few megabytes each


@dataclass(frozen=True, eq=False)
class Sitting:
    """An upload at screen size, on which one expression after another is tried.

    Attributes:
        size: width and height of the upload, px.
        found: all its faces, largest first, as the page shows them.
        photo: the upload, reduced to `PREVIEW_SIDE`; faces: `found` in its px.
        prepared: number of a face, from 1 -> what its edits need, once it was asked for; empty for
            a half hidden one.
        sources: number of a face, from 1 -> its embeddings, once an expression was copied to it.
    """

    size: tuple[int, int]
    found: list["FoundFace"]
    photo: Image.Image
    faces: list["Face"]
    prepared: dict[int, list["EditableFace"]] = field(default_factory=dict)
    sources: dict[int, dict[str, "Tensor"]] = field(default_factory=dict)

    @classmethod
    def of(cls, photo: Image.Image, faces: list["Face"], found: list["FoundFace"]) -> "Sitting":
        """The sitting of an upright RGB photo and its faces, photo px."""
        from map_pipeline.faces.search import scale_face

        factor = min(1.0, PREVIEW_SIDE / max(photo.size))
        width, height = (max(1, round(side * factor)) for side in photo.size)
        small = photo.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2)
        scale = width / photo.width, height / photo.height
        return cls(photo.size, found, small, [scale_face(face, scale) for face in faces])

    def express(
        self,
        pipe: "MAPPipeline",
        numbers: list[int],
        choices: "Choices",
        shown: "ShownExpression | None" = None,
    ) -> Image.Image:
        """The photo with the chosen expression of the faces of these numbers.

        Args:
            shown: an expression that is copied to them instead.
        """
        from map_pipeline.images import to_array, to_pil

        rest = choices.expression_strength, choices.action_units
        result = to_array(self.photo)
        for number in numbers:
            emotion, model = choices.emotion_of(number), self.model_for(pipe, number, shown)
            face = self.prepare(pipe, number)
            result = pipe.express_faces(result, face, emotion, *rest, model)
        return to_pil(result)

    def prepare(self, pipe: "MAPPipeline", number: int) -> list["EditableFace"]:
        """What edits of the face of this number need; nothing for a half hidden one."""
        from map_pipeline.images import to_array

        if number not in self.prepared:
            face = self.faces[number - 1]
            self.prepared[number] = pipe.prepare_faces(to_array(self.photo), [face])
        return self.prepared[number]

    def model_for(
        self, pipe: "MAPPipeline", number: int, shown: "ShownExpression | None"
    ) -> "ExpressionModel | None":
        """What is copied to the face of this number; None where nothing is."""
        from map_pipeline.images import to_array

        if shown is None:
            return None
        if number not in self.sources:
            view = pipe.view(to_array(self.photo), self.faces[number - 1].landmarks)
            self.sources[number] = pipe.embed(view)
        return shown.model_for(self.sources[number], pipe.recognisers)


class RecentUploads(Generic[Made]):
    """What was made of the last few uploads, each forgotten after so many seconds."""

    def __init__(self, seconds: float, most: int = MOST_UPLOADS) -> None:
        self._seconds, self._most = seconds, most
        self._kept: OrderedDict[tuple[str, ...], tuple[Made, threading.Timer]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, ...], make: Callable[[], Made]) -> Made:
        """What was made of the uploads of this key, made if it isn't there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        made = make()
        timer = threading.Timer(self._seconds, self._forget, [key])
        timer.daemon = True
        timer.start()
        self._forget(key)  # somebody else may have made it, too
        with self._lock:
            self._kept[key] = made, timer
            oldest = next(iter(self._kept)) if len(self._kept) > self._most else None
        if oldest is not None:
            self._forget(oldest)
        return made

    def _forget(self, key: tuple[str, ...]) -> None:
        with self._lock:
            _, timer = self._kept.pop(key, (None, None))
        if timer is not None:
            timer.cancel()
