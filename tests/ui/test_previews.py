"""The expression that a visitor sees before anything is protected."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT
from PIL import Image

from map_pipeline import MAPPipeline
from map_pipeline.errors import MAPError, NoFaceError, UnknownOptionError
from map_pipeline.ui.models import prepare_models
from map_pipeline.ui.previews import PREVIEW_SIDE, RecentUploads, Sitting
from map_pipeline.ui.service import ProtectionService
from map_pipeline.ui.settings import Choices


@pytest.fixture(scope="module")
def service(editing_pipeline: MAPPipeline) -> ProtectionService:
    models = prepare_models(editing_pipeline, "cpu")
    return ProtectionService(lambda: models, background=False)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.array(picture).astype(int)


def test_preview_is_the_edit_of_the_pipeline(
    service: ProtectionService, editing_pipeline: MAPPipeline
) -> None:
    for emotion, strength, units in (
        ("surprise", 0.8, None),
        ("surprise", 0.8, {"mouth_open": 1.0, "smile": -0.5}),
        ("closed_smile", 1.0, None),
    ):
        choices = Choices(emotion, strength, action_units=units)
        [alone] = editing_pipeline.edit_expression(ASTRONAUT, emotion, strength, action_units=units)
        shown = service.preview(str(ASTRONAUT), choices)
        np.testing.assert_array_equal(pixels(shown), pixels(alone))


def test_each_face_is_previewed_and_protected_with_its_own_expression(
    service: ProtectionService,
) -> None:
    """In a photo of two, each face is as in the preview of its expression for both."""
    group = ASTRONAUT.with_name("video-call.png")

    def shown(**choices: Any) -> np.ndarray:
        return pixels(service.preview(str(group), Choices(faces=[1, 3], **choices)))

    first, third = (
        tuple(round(corner) for corner in one.box)
        for one in service.look(str(group), "auto").found
        if one.number in (1, 3)
    )
    sad, angry, mixed = (
        shown(emotion="sad"), shown(emotion="angry"), shown(emotion="sad", emotions={"3": "angry"})
    )  # fmt: skip
    for (x0, y0, x1, y1), alike in ((first, sad), (third, angry)):
        inside = slice(y0, y1), slice(x0, x1)
        np.testing.assert_array_equal(mixed[inside], alike[inside])
        assert (sad[inside] != angry[inside]).any()
    photo = Image.open(group).convert("RGB")
    choices = Choices(faces=[1, 3], emotion="sad", emotions={"3": "angry"}, steps=1)
    *_, protected = service.run([service.prepare(photo, None, choices)])
    assert [one.emotion for one in protected.reports] == ["sad", "angry"]


def test_emotion_of_a_face_that_is_not_there_is_refused_as_in_a_protection(
    service: ProtectionService,
) -> None:
    choices = Choices(emotions={"9": "sad"})
    for ask in (
        lambda: service.preview(str(ASTRONAUT), choices),
        lambda: service.prepare(Image.open(ASTRONAUT).convert("RGB"), None, choices),
    ):
        with pytest.raises(NoFaceError, match=r"`emotions` must name faces from 1 to 1.* got 9"):
            ask()


def test_single_movements_are_protected_as_previewed(
    service: ProtectionService, editing_pipeline: MAPPipeline
) -> None:
    photo = Image.open(ASTRONAUT).convert("RGB")
    choices = Choices(steps=1, action_units={"mouth_open": 1.0})
    *_, protected = service.run([service.prepare(photo, None, choices)])
    alone, without = (
        editing_pipeline(
            photo,
            mode="fast",
            refine_steps=1,
            action_units=units,
            generator=torch.Generator().manual_seed(0),
        ).images[0]
        for units in (choices.action_units, None)
    )
    np.testing.assert_array_equal(pixels(protected.photo), pixels(alone))
    assert (pixels(alone) != pixels(without)).any()


def test_copied_expression_is_previewed_and_protected_as_the_pipeline_does(
    service: ProtectionService, editing_pipeline: MAPPipeline, tmp_path: Path
) -> None:
    photo = Image.open(ASTRONAUT).convert("RGB")
    [model] = editing_pipeline.edit_expression(photo, "surprise", 1.0)
    model.save(tmp_path / "other.png")
    other = {"path": str(tmp_path / "other.png")}
    choices = Choices(expression_strength=0.8, steps=1, expression_of=other)
    [alone] = editing_pipeline.edit_expression(photo, strength=0.8, expression_of=model)
    np.testing.assert_array_equal(pixels(service.preview(str(ASTRONAUT), choices)), pixels(alone))
    assert (pixels(alone) != pixels(service.preview(str(ASTRONAUT), Choices()))).any()
    *_, protected = service.run([service.prepare(photo, None, choices)])
    expected = editing_pipeline(
        photo,
        mode="fast",
        refine_steps=1,
        expression_strength=0.8,
        expression_of=model,
        generator=torch.Generator().manual_seed(0),
    )
    np.testing.assert_array_equal(pixels(protected.photo), pixels(expected.images[0]))
    assert protected.reports[0].expression_of == "own image"


def test_photo_without_a_face_to_copy_from_is_told_before_the_work(
    service: ProtectionService, tmp_path: Path
) -> None:
    Image.new("RGB", (99, 99)).save(tmp_path / "empty.png")
    photo = Image.open(ASTRONAUT).convert("RGB")
    for path in (tmp_path / "empty.png", tmp_path / "deleted.png"):
        choices = Choices(expression_of={"path": str(path)})
        for work in (
            lambda given: service.preview(str(ASTRONAUT), given),
            lambda given: service.prepare(photo, None, given),
        ):
            with pytest.raises(MAPError, match="`expression_of`"):
                work(choices)


def test_large_photo_is_previewed_at_screen_size(
    service: ProtectionService, tmp_path: Path
) -> None:
    photo = Image.open(ASTRONAUT).convert("RGB")
    photo.resize((2400, 2400), Image.Resampling.LANCZOS).save(tmp_path / "large.png")
    large = service.preview(str(tmp_path / "large.png"), Choices(emotion="surprise"))
    assert max(large.size) == PREVIEW_SIDE
    small = service.preview(str(ASTRONAUT), Choices(emotion="surprise"))
    change = np.abs(pixels(small) - pixels(photo))
    again = np.abs(pixels(large.resize(photo.size, Image.Resampling.BOX)) - pixels(photo))
    assert change[90:160, 190:260].mean() > 2  # the face has another expression, and here it is:
    assert again[90:160, 190:260].mean() == pytest.approx(change[90:160, 190:260].mean(), rel=0.5)


def test_an_upload_is_looked_at_once(
    service: ProtectionService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(ASTRONAUT.read_bytes())
    service.preview(str(path), Choices())

    def again(*_: object) -> None:
        raise AssertionError("looked for faces again")

    monkeypatch.setattr(type(service.models.judging["auto"].face_detector), "detect", again)
    monkeypatch.setattr(MAPPipeline, "prepare_faces", lambda *given: [again() for _ in given[2]])
    service.preview(str(path), Choices(emotion="sad"))
    with pytest.raises(AssertionError, match="looked for faces again"):
        service.preview(str(ASTRONAUT), Choices(detector="bundled"))


def test_half_hidden_face_stays_as_it_is(
    service: ProtectionService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(ASTRONAUT.read_bytes())
    monkeypatch.setattr(MAPPipeline, "prepare_faces", lambda *_: [])
    shown = service.preview(str(path), Choices(emotion="surprise"))
    np.testing.assert_array_equal(pixels(shown), pixels(Image.open(ASTRONAUT).convert("RGB")))


@pytest.mark.usefixtures("overlooks_turned")
def test_turned_faces_are_previewed_on_request(
    service: ProtectionService, lying: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(lying).save(tmp_path / "lying.png")
    for rotate in (False, True):  # the same upload
        choices = Choices(emotion="surprise", expression_strength=1.0, rotate=rotate)
        shown = pixels(service.preview(str(tmp_path / "lying.png"), choices))
        assert (shown != lying)[:, :256].any()
        assert (shown != lying)[:, 256:].any() == rotate


def test_bad_choices_of_a_preview_are_told(service: ProtectionService, tmp_path: Path) -> None:
    for change in (
        {"emotion": "bored"},
        {"expression_strength": None},
        {"detector": "best"},
        {"action_units": "smile"},
        {"expression_of": "other.png"},
    ):
        with pytest.raises(UnknownOptionError, match=f"`{next(iter(change))}` must be"):
            service.preview(str(ASTRONAUT), Choices(**change))
    with pytest.raises(NoFaceError, match="numbers from 1 to 1"):
        service.preview(str(ASTRONAUT), Choices(faces=[2]))
    Image.new("RGB", (99, 99)).save(tmp_path / "empty.png")
    with pytest.raises(NoFaceError):
        service.preview(str(tmp_path / "empty.png"), Choices())


def sitting() -> Sitting:
    return Sitting.of(Image.new("RGB", (9, 9)), [], [])


def test_uploads_are_forgotten_by_number_and_by_age() -> None:
    recent = RecentUploads(seconds=60, most=2)
    first = recent.get(("a",), sitting)
    assert recent.get(("a",), sitting) is first
    for name in ("b", "c"):
        recent.get((name,), sitting)
    assert recent.get(("a",), sitting) is not first
    short = RecentUploads(seconds=0.05)
    before = short.get(("a",), sitting)
    time.sleep(0.3)
    assert not short._kept  # without anybody asking
    assert short.get(("a",), sitting) is not before


def test_many_uploads_leave_no_threads() -> None:
    threads, recent = threading.active_count(), RecentUploads(seconds=60, most=2)
    for number in range(20):
        recent.get((str(number),), sitting)
    time.sleep(0.2)
    assert threading.active_count() <= threads + 2
