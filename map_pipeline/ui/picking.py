"""Which faces of the photo are protected, and with which expression each."""

import contextlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import gradio as gr

from map_pipeline.ui import face_outlines, results
from map_pipeline.ui.endpoints import File
from map_pipeline.ui.face_choice import FoundFace
from map_pipeline.ui.previews import Sitting
from map_pipeline.ui.requests import errors_in_plain_words
from map_pipeline.ui.service import ProtectionService, choose_faces
from map_pipeline.ui.settings import MAX_FACES, Choices


class FaceHandlers:
    """What happens where faces are found, picked and given expressions.

    Args:
        service: the models.
        parts: the components: `top` and `form`.
    """

    def __init__(self, service: ProtectionService, parts: SimpleNamespace) -> None:
        self._service, self._top, self._form = service, parts.top, parts.form

    def outline_faces(
        self, photo: File, newest: dict, looks: int, whose: int, *values: Any
    ) -> dict:
        """Outlines of the faces of an upload, and a choice among several, all else as it was."""
        top, form = self._top, self._form
        newest["photo"] = photo and photo["path"]
        choices = form.read(values)
        clear = {
            top.preview: "",
            top.outlines: "",
            top.note: "",
            form.people: gr.Column(visible=False),
            form.faces: gr.CheckboxGroup([], value=[]),
            form.whose: gr.Radio([("All", 0)], value=0),
            form.own: {},
            # Only where it's another: the visitor may be choosing one right now.
            form.emotion: choices.emotion if whose else gr.skip(),
        }
        if not photo:
            return clear
        try:
            with errors_in_plain_words():
                sitting = self._service.look(photo["path"], choices.detector, choices.rotate)
        except gr.Error as error:
            gr.Warning(error.message)  # an error would leave the outlines of the photo before
            return clear
        found = sitting.found
        ticked = [one.number for one in found if one.clear][:MAX_FACES]
        return {
            **clear,
            top.looks: looks + 1,
            top.outlines: face_outlines.outlines(sitting.size, found, ticked),
            top.note: results.note(face_outlines.note(found)),
            form.people: gr.Column(visible=len(found) > 1 or not ticked),
            form.faces: gr.CheckboxGroup(face_outlines.choices(found), value=ticked),
            form.whose: gr.Radio(face_outlines.turns(found, own=False), value=0),
        }

    def draw_choices(self, photo: File, whose: int, *values: Any) -> tuple[str, gr.Radio]:
        """Outlines that show which faces are picked, and what is chosen for which."""
        choices = self._form.read(values)
        with contextlib.suppress(gr.Error), errors_in_plain_words():
            sitting = self._service.look(photo and photo["path"], choices.detector, choices.rotate)
            if len(sitting.found) > 1:
                return self._drawn(sitting, choices, whose)
        return gr.skip(), gr.skip()

    def _drawn(self, sitting: Sitting, choices: Choices, whose: int) -> tuple[str, gr.Radio]:
        found = sitting.found
        picked = [one.number for one in choose_faces(found, choices.faces)]
        own = own_expressions(found, choices)
        turns = face_outlines.turns(found, own=bool(own))
        drawn = face_outlines.outlines(sitting.size, found, picked, own, whose)
        return drawn, gr.Radio(turns)  # not its value: another may be chosen meanwhile


def own_expressions(found: Sequence[FoundFace], choices: Choices) -> dict[int, str]:
    """Number of a face -> its expression, where that isn't the common one."""
    emotions = {one.number: choices.emotion_of(one.number) for one in found}
    return {number: own for number, own in emotions.items() if own != choices.emotion}
