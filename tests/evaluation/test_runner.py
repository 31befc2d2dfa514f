import dataclasses
import io
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT
from PIL import Image
from torch import Tensor

from map_pipeline import MAPPipeline
from map_pipeline.config import EMOTIONS
from map_pipeline.errors import NoFaceError, UnknownOptionError
from map_pipeline.evaluation import runner
from map_pipeline.evaluation.dataset import PhotoSet
from map_pipeline.evaluation.gallery import embed_composite, embed_largest_face
from map_pipeline.evaluation.methods.base import Unprotected
from map_pipeline.evaluation.names import transform
from map_pipeline.evaluation.results import (
    NOT_FOUND,
    PhotoRow,
    Row,
    photo_file,
    photos_file,
    read_rows,
    results_file,
    unit,
)
from map_pipeline.evaluation.runner import Evaluation
from map_pipeline.evaluation.settings import Settings
from map_pipeline.evaluation.subjects import Tools
from map_pipeline.evaluation.tables import frame, outcomes
from map_pipeline.images import load_image, to_array

EXAMPLES = ASTRONAUT.parent
QUICK = Settings(methods=("none",), targets=("77",), transforms=("none",))
JPEG = dataclasses.replace(QUICK, transforms=("jpeg75",))


def encode(photo: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def faces() -> list[np.ndarray]:
    """Three portraits of 180 px, which takes half the time of 256 px."""
    others = [load_image(EXAMPLES / f"{n}.png") for n in ("woman-young-tan", "man-older-dark")]
    portraits = [load_image(ASTRONAUT).crop((96, 0, 352, 256)), *others]
    return [to_array(one.resize((180, 180), Image.Resampling.LANCZOS)) for one in portraits]


@pytest.fixture
def files(faces: list[np.ndarray]) -> dict[str, bytes]:
    """Three people with two photos each, and a target."""
    found = {"77_enroll.png": encode(faces[2]), "77_probe.png": encode(faces[2][:, ::-1])}
    for index, face in enumerate(faces):
        found[f"00{index}_a.png"] = encode(face)
        found[f"00{index}_b.png"] = encode(face[:, ::-1])
    return found


@pytest.fixture
def evaluate(tiny_pipeline: MAPPipeline, tmp_path: Path) -> Callable[..., Evaluation]:
    """Write the photos, run, and return the evaluation; results lie in `tmp_path/out`."""

    def call(files: dict[str, bytes], settings: Settings, **options: object) -> Evaluation:
        folder = tmp_path / "photos"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        out = tmp_path / "out"
        evaluation = Evaluation(tiny_pipeline, PhotoSet(folder), settings, out, **options)
        evaluation.run()
        return evaluation

    return call


def rows_of(evaluation: Evaluation) -> list[Row]:
    return read_rows(results_file(evaluation.out), Row)


def photos_of(evaluation: Evaluation) -> list[PhotoRow]:
    return read_rows(photos_file(evaluation.out), PhotoRow)


def picture(evaluation: Evaluation, *names: str) -> np.ndarray:
    return to_array(load_image(photo_file(evaluation.out, *names)))


def test_identical_folders(evaluate: Callable, files: dict[str, bytes]) -> None:
    """Unprotected photos compared with themselves: nobody dodges, and SSIM is 1."""
    same = {name.replace("_a", "_b"): content for name, content in files.items() if "_a" in name}
    evaluation = evaluate(files | same, JPEG)
    photos, rows = photos_of(evaluation), rows_of(evaluation)
    assert [(row.photo, row.status) for row in photos] == [(f"00{i}", "ok") for i in range(3)]
    for photo in photos:
        assert photo.ssim == pytest.approx(1, abs=1e-5)
        assert photo.psnr == math.inf
    for row in rows:
        assert row.found
        assert row.target_clean == row.target_protected
        assert row.person_clean == row.person_protected
    plain = [row for row in rows if row.transformation == "none"]
    assert len(plain) == 3 * len(evaluation.pipe.recognisers)
    for row in plain:
        assert row.person_protected == pytest.approx(1, abs=1e-5)
        assert (row.rank_clean, row.rank_protected) == (1, 1)
    judged = outcomes(frame(plain), dict.fromkeys(evaluation.pipe.recognisers, 0.999))
    assert not judged["dodging"].any()


def test_similarities_are_those_of_the_pipeline(
    evaluate: Callable, files: dict[str, bytes], faces: list[np.ndarray]
) -> None:
    evaluation = evaluate(files, dataclasses.replace(JPEG, methods=("mosaic",), limit=1))
    pipe = evaluation.pipe
    result = picture(evaluation, "mosaic", "000", "dlib_resnet")
    assert (result != faces[0]).any()
    np.testing.assert_array_equal(picture(evaluation, "source", "000"), faces[0])
    jpeg = transform(pipe, "jpeg75")
    changed = {"none": (faces[0], result), "jpeg75": (jpeg(faces[0], 0), jpeg(result, 0))}

    def vectors(photo: np.ndarray) -> dict[str, Tensor]:
        photo = np.ascontiguousarray(photo)
        [face, *_] = pipe.face_detector.detect(photo)
        return pipe.embed(pipe.view(photo, face.landmarks))

    person, target = vectors(faces[0][:, ::-1]), vectors(faces[2][:, ::-1])
    rows = rows_of(evaluation)
    assert len(rows) == 2 * len(pipe.recognisers)
    for row in rows:
        name = row.recogniser
        both = [vectors(photo)[name][0] for photo in changed[row.transformation]]
        expected = [float(one @ other[name][0]) for other in (target, person) for one in both]
        found = (row.target_clean, row.target_protected, row.person_clean, row.person_protected)
        assert found == pytest.approx(expected, abs=1e-5)


BAD = {
    "000_a.png": b"not a picture",  # the photo to protect can't be read
    "000_b.png": None,
    "001_a.png": None,
    "001_b.png": b"damaged",  # the other photo can't be read
    "002_a.png": encode(np.full((256, 256, 3), 128, np.uint8)),  # no face to protect
    "002_b.png": None,
    "003_a.png": None,  # no other photo at all
    "004_a.png": None,
    "004_b.png": encode(np.full((256, 256, 3), 128, np.uint8)),  # no face in the other photo
    "005_b.png": None,  # nothing to protect
}


@pytest.mark.slow
def test_bad_photos_count_and_are_listed(
    evaluate: Callable, files: dict[str, bytes], faces: list[np.ndarray]
) -> None:
    face = encode(faces[0])
    bad = {name: face if content is None else content for name, content in BAD.items()}
    settings = dataclasses.replace(JPEG, methods=("mosaic",), protect_both=True)
    evaluation = evaluate({k: v for k, v in files.items() if "77" in k} | bad, settings)

    status = {row.photo: row.status for row in photos_of(evaluation)}
    assert list(status) == ["000", "001", "002", "003", "004"]
    assert "`image` must be a whole" in status["000"]
    assert "`image` must show a face" in status["002"]
    assert [status[name] for name in ("001", "003", "004")] == ["ok"] * 3
    problems = {p.name for p in (*evaluation.photos.problems, *evaluation.gallery.problems)}
    used = {"000_b.png", "001_a.png", "002_b.png", "004_a.png"}
    assert problems == set(BAD) - used

    judged = outcomes(
        frame(rows_of(evaluation)),
        dict.fromkeys(evaluation.pipe.recognisers, -0.99),  # everything found matches
    )
    n = len(evaluation.pipe.recognisers)
    for _, kind in judged.groupby("transformation"):
        # All five count in impersonation, the two failures as not impersonating ...
        assert kind["impersonation"].agg(["sum", "count"]).tolist() == [3 * n, 5 * n]
        # ... and the two with a usable other photo, both failures, count in dodging.
        assert kind["dodging"].agg(["sum", "count"]).tolist() == [0, 2 * n]
    assert set(judged["transformation"]) == {"none", "jpeg75", "protected_pair"}
    for row in rows_of(evaluation):
        failed = row.photo in ("000", "002")
        assert row.found != failed
        assert (row.target_protected == NOT_FOUND) == failed
        assert math.isnan(row.person_protected) == (row.photo not in ("000", "002"))
        assert row.rank_protected == 0


def test_a_target_without_a_face_is_told_before_any_work(
    evaluate: Callable, files: dict[str, bytes], tmp_path: Path
) -> None:
    files["77_probe.png"] = encode(np.full((256, 256, 3), 128, np.uint8))
    with pytest.raises(NoFaceError, match="`target` must show a face, got none in 77_probe"):
        evaluate(files, QUICK)
    assert not (tmp_path / "out").exists()


def test_what_uses_no_recogniser_says_so(evaluate: Callable, files: dict[str, bytes]) -> None:
    settings = dataclasses.replace(QUICK, methods=("none", "blur"), limit=1)
    assert not any(row.used for row in rows_of(evaluate(files, settings)))


def test_one_recogniser_is_left_out_per_photo(
    evaluate: Callable, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Unprotected, "surrogates", None)  # as if it looked at all of them
    evaluation = evaluate(files, QUICK)
    assert [unit(row) for row in photos_of(evaluation)] == [
        ("000", "none", "dlib_resnet"),
        ("001", "none", "mobilefacenet"),
        ("002", "none", "dlib_resnet"),
    ]
    for row in rows_of(evaluation):
        families = {"dlib_resnet": "dlib", "mobilefacenet": "mobilefacenet", "faceres": ""}
        # faceres is of mobilefacenet's family and never a surrogate here.
        assert row.used == (families[row.recogniser] not in ("", families[row.left_out]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("leave_out", "expected"), [("each", ["dlib_resnet", "mobilefacenet"]), ("none", [""])]
)
def test_other_ways_to_leave_out(
    evaluate: Callable, files: dict[str, bytes], leave_out: str, expected: list[str]
) -> None:
    settings = dataclasses.replace(QUICK, leave_out=leave_out, limit=1, methods=("none", "blur"))
    evaluation = evaluate(files, settings)
    units = [unit(row)[1:] for row in photos_of(evaluation)]
    assert units == [(method, one) for one in expected for method in ("none", "blur")]
    assert all(picture(evaluation, "blur", "000", one).any() for one in expected)


@pytest.mark.slow
def test_finished_units_are_not_done_again(
    evaluate: Callable, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = runner.measure
    monkeypatch.setattr(runner, "measure", lambda *args: calls.append(1) or real(*args))
    settings = dataclasses.replace(QUICK, methods=("none", "mosaic"))
    for _ in range(2):
        evaluate(files, settings)
        assert len(calls) == 6


@pytest.mark.slow
def test_more_photos_and_methods_may_be_added(evaluate: Callable, files: dict[str, bytes]) -> None:
    first = evaluate(files, dataclasses.replace(QUICK, limit=1))
    rows = rows_of(first)
    second = evaluate(files, dataclasses.replace(QUICK, limit=2, methods=("none", "blur")))
    assert rows_of(second)[: len(rows)] == rows
    assert {unit(row)[:2] for row in photos_of(second)} == {
        *itertools.product(("000", "001"), ("none", "blur"))
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("seed", 1, "seed 0 there and 1 here"),
        ("emotion", "sad", "emotion 'happy' there and 'sad' here"),
        ("transforms", ("jpeg75",), "transforms .* there and .*jpeg75"),
        ("targets", ("first",), "targets .*77.* there and .*first"),
    ],
)
def test_a_folder_holds_one_run(
    evaluate: Callable, files: dict[str, bytes], option: str, value: object, match: str
) -> None:
    first = evaluate(files, dataclasses.replace(QUICK, limit=1))
    rows = rows_of(first)
    with pytest.raises(UnknownOptionError, match=f"`out` must be a new folder.*{match}"):
        evaluate(files, dataclasses.replace(QUICK, limit=2, **{option: value}))
    assert rows_of(first) == rows


def test_styles_are_sets_of_their_own(evaluate: Callable, files: dict[str, bytes]) -> None:
    settings = dataclasses.replace(QUICK, styles=("grey",), limit=1, methods=("mosaic",))
    evaluation = evaluate(files, settings)
    styles = {row.photo: row.style for row in photos_of(evaluation)}
    assert styles == {"000": "plain", "000@grey": "grey"}
    source = picture(evaluation, "source", "000@grey")
    assert (source == source[..., :1]).all()
    plain, grey = ([r for r in rows_of(evaluation) if r.photo == name] for name in styles)
    for one, other in zip(plain, grey, strict=True):
        assert one.person_clean != other.person_clean


@pytest.mark.slow
def test_protected_against_protected(evaluate: Callable, files: dict[str, bytes]) -> None:
    """Two equal photos, protected alike, stay equal: a match, however much both were changed."""
    files["000_b.png"] = files["000_a.png"]
    settings = dataclasses.replace(QUICK, methods=("pgd",), protect_both=True, limit=2)
    evaluation = evaluate(files, settings)
    by_kind = {(r.transformation, r.photo, r.recogniser): r for r in rows_of(evaluation)}
    pairs = [row for row in by_kind.values() if row.transformation == "protected_pair"]
    assert len(pairs) == 2 * len(evaluation.pipe.recognisers)
    for row in pairs:
        plain = by_kind["none", row.photo, row.recogniser]
        assert row.target_protected == plain.target_protected
        assert row.person_clean == plain.person_clean
        if row.photo == "000":
            assert row.person_protected == pytest.approx(1, abs=1e-5)
            assert row.rank_protected == 1
            continue
        first, second = (
            embed_largest_face(evaluation.pipe, picture(evaluation, "pgd", name, row.left_out))
            for name in ("001", "001.second")
        )
        cosine = first.embeddings[row.recogniser] @ second.embeddings[row.recogniser]
        assert row.person_protected == pytest.approx(cosine, abs=1e-5)
        assert row.person_protected != plain.person_protected


def test_composites_are_tested_against_their_mirrored_picture(
    evaluate: Callable, files: dict[str, bytes]
) -> None:
    pairs = {name: content for name, content in files.items() if "77" not in name}
    evaluation = evaluate(pairs, dataclasses.replace(QUICK, targets=("second", "third"), limit=2))
    assert "mirrored" in evaluation.probe
    pipe = evaluation.pipe
    for row in rows_of(evaluation):
        name = {"000": "second", "001": "third"}[row.photo]
        probe, shown = embed_composite(pipe, name)
        face = embed_largest_face(pipe, picture(evaluation, "source", row.photo))
        cosine = face.embeddings[row.recogniser] @ probe.embeddings[row.recogniser]
        assert row.target_clean == pytest.approx(cosine, abs=1e-5)
        np.testing.assert_array_equal(shown, to_array(pipe.targets.picture(name))[:, ::-1])


@pytest.mark.parametrize("own", [True, False])
def test_default_targets_are_those_of_the_set_or_composites(
    own: bool, evaluate: Callable, files: dict[str, bytes]
) -> None:
    pairs = {name: content for name, content in files.items() if own or "77" not in name}
    evaluation = evaluate(pairs, dataclasses.replace(QUICK, targets=(), limit=1))
    assert evaluation.targets == ("77" if own else "auto",)
    assert (evaluation.probe == "another photo of the target") == own
    if not own:
        [goal] = evaluation.subject(0, "plain").goals.values()
        assert goal.name == goal.enroll in evaluation.pipe.targets.names


def test_a_recogniser_that_is_left_out_does_not_choose_the_target(
    evaluate: Callable, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(QUICK, targets=("auto",), leave_out="each", limit=1)
    evaluation = evaluate(files, settings)
    pipe, face = evaluation.pipe, evaluation.subject(0, "plain").clean("none")
    alike = {"dlib_resnet": 0, "mobilefacenet": 1}  # which of three each finds most alike

    def embeddings(name: str) -> Tensor | None:
        if name not in alike:
            return None
        found = -torch.from_numpy(face.embeddings[name]).repeat(3, 1)
        found[alike[name]] = 0
        return found

    monkeypatch.setattr(pipe.targets, "embeddings", embeddings)
    goals = evaluation.subject(0, "plain").goals
    assert {one: goal.name for one, goal in goals.items()} == {
        "dlib_resnet": "second",
        "mobilefacenet": "first",
    }


def test_all_emotions_take_turns(evaluate: Callable, files: dict[str, bytes]) -> None:
    judge_free = evaluate(files, dataclasses.replace(QUICK, emotion="all"))
    assert [row.emotion for row in photos_of(judge_free)] == list(EMOTIONS[:3])
    assert {row.emotion_before for row in photos_of(judge_free)} == {""}


def test_expression_judge(
    evaluate: Callable, files: dict[str, bytes], tiny_pipeline: MAPPipeline
) -> None:
    files["001_a.png"] = encode(np.full((256, 256, 3), 128, np.uint8))
    judge = next(iter(tiny_pipeline.expression_classifiers.values()))
    photos = photos_of(evaluate(files, QUICK, tools=Tools(judge=judge)))
    probabilities = json.loads(photos[0].emotion_before)
    assert list(probabilities) == list(EMOTIONS)
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert photos[0].emotion_before == photos[0].emotion_after
    assert photos[1].emotion_before == photos[1].emotion_after == "{}"
    with pytest.raises(UnknownOptionError, match="judge True there and False here"):
        evaluate(files, QUICK)


class FakeService:
    """Stands in for Face++: confidence by brightness, no face in uniform pictures."""

    calls = 0

    def compare(self, first: np.ndarray, second: np.ndarray) -> float:
        self.calls += 1
        if first.std() == 0:
            raise NoFaceError("`photo` must show a face that Face++ finds, got none.")
        return float(abs(first.mean() - second.mean()))


def test_face_service_is_asked_once_for_the_clean_photo(
    evaluate: Callable, files: dict[str, bytes], faces: list[np.ndarray]
) -> None:
    files["001_a.png"] = encode(np.full((256, 256, 3), 128, np.uint8))
    service = FakeService()
    settings = dataclasses.replace(QUICK, methods=("none", "blur"), limit=2)
    photos = photos_of(evaluate(files, settings, tools=Tools(facepp=service)))
    assert photos[0].facepp_clean == photos[0].facepp_protected
    assert photos[0].facepp_clean == pytest.approx(abs(faces[0].mean() - faces[2].mean()))
    # 000: clean, none, blur. 001, without a face: clean and none; blur fails before it is asked.
    assert [row.status for row in photos[:3]] == ["ok"] * 3
    assert "must show a face" in photos[3].status
    assert service.calls == 3 + 2
    assert photos[2].facepp_clean is None


def test_the_method_gets_what_the_protocol_says(
    evaluate: Callable,
    files: dict[str, bytes],
    faces: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks = []

    class Spy:
        name, title, surrogates = "none", "spy", None

        def protect(self, pipe: MAPPipeline, task: runner.Task) -> np.ndarray:  # noqa: ARG002
            tasks.append(task)
            return task.photo

    monkeypatch.setattr(runner, "create", lambda *_args, **_options: Spy())
    evaluate(files, dataclasses.replace(QUICK, seed=7, limit=1, emotion="sad"))
    [task] = tasks
    assert (task.emotion, task.seed, task.surrogates) == ("sad", 7, ("mobilefacenet",))
    np.testing.assert_array_equal(task.photo, faces[0])
    np.testing.assert_array_equal(task.target, faces[2])
