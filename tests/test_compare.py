"""Comparing any two photos, and a protected one after sharing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT, EXAMPLES
from PIL import Image

from map_pipeline import MAPPipeline
from map_pipeline.compare import Comparison, compare_faces, find_again, judging_copy
from map_pipeline.errors import (
    FaceTooSmallError,
    InvalidImageError,
    NoFaceError,
    UnknownOptionError,
)
from map_pipeline.images import load_image, to_array
from map_pipeline.report import FaceReport
from map_pipeline.robustness import CHECKED, check_robustness

MAN = EXAMPLES / "man-older-dark.png"


@pytest.fixture(scope="module")
def group(portrait: np.ndarray) -> Image.Image:
    """The portrait at the left, and a larger face, which reaches the edges, beside it."""
    photo = Image.new("RGB", (512, 256))
    photo.paste(Image.fromarray(portrait), (0, 0))
    photo.paste(Image.open(MAN).convert("RGB").resize((256, 256)), (256, 0))
    return photo


@pytest.fixture(scope="module")
def tiny_face(portrait: np.ndarray) -> Image.Image:
    """A face 35 px wide."""
    return Image.fromarray(portrait).resize((96, 96))


@pytest.fixture(scope="module")
def protected(tiny_pipeline: MAPPipeline) -> tuple[np.ndarray, FaceReport]:
    output = tiny_pipeline(
        ASTRONAUT,
        target="second",
        refine_steps=2,
        generator=torch.Generator().manual_seed(0),
    )
    return np.array(output.images[0]), output.reports[0][0]


def compare_largest(pipe: MAPPipeline, *photos: Path | Image.Image | bytes) -> list[Comparison]:
    [pair] = compare_faces(pipe, *photos, "largest").pairs
    return pair.recognisers


def test_shipped_recognisers_tell_people_apart(bundled_pipeline: MAPPipeline) -> None:
    smaller = load_image(ASTRONAUT).resize((400, 400))
    same = compare_largest(bundled_pipeline, ASTRONAUT, smaller)
    others = compare_largest(bundled_pipeline, ASTRONAUT, MAN)
    assert [one.name for one in same] == list(bundled_pipeline.recognisers)
    assert all(one.matches for one in same)
    assert not any(one.matches for one in others)
    for one in (*same, *others):
        assert -1 <= one.similarity <= 1.0001
        assert one.matches == (one.similarity >= one.threshold)


def test_the_order_of_the_photos_does_not_matter(tiny_pipeline: MAPPipeline) -> None:
    there, back = (
        [one.similarity for one in compare_largest(tiny_pipeline, *photos)]
        for photos in ((ASTRONAUT, MAN), (MAN, ASTRONAUT))
    )
    assert there == pytest.approx(back)


def test_errors_say_which_photo(tiny_pipeline: MAPPipeline) -> None:
    sky = Image.new("RGB", (200, 200), "steelblue")
    with pytest.raises(NoFaceError, match="the second photo must show a face"):
        compare_largest(tiny_pipeline, ASTRONAUT, sky)
    with pytest.raises(InvalidImageError, match="the first photo must be"):
        compare_largest(tiny_pipeline, b"nothing", ASTRONAUT)
    small = load_image(ASTRONAUT).resize((180, 180), Image.Resampling.LANCZOS)
    with pytest.raises(FaceTooSmallError, match=r"the second photo: .* at least 40 px"):
        compare_largest(tiny_pipeline, ASTRONAUT, small)


def test_every_face_is_compared_with_every_other(
    tiny_pipeline: MAPPipeline, group: Image.Image, portrait: np.ndarray
) -> None:
    found = compare_faces(tiny_pipeline, group, portrait)
    assert [face.number for face in found.first.faces] == [1, 2]
    assert (
        found.first.faces[0].box[0] > 256 > found.first.faces[1].box[2]
    )  # the larger one is at the right
    assert [(pair.first, pair.second) for pair in found.pairs] == [(1, 1), (2, 1)]
    for pair in found.pairs:
        assert [one.name for one in pair.recognisers] == list(tiny_pipeline.recognisers)
    stranger, same = ([one.similarity for one in pair.recognisers] for pair in found.pairs)
    assert all(a < b for a, b in zip(stranger, same, strict=True))
    assert min(same) > 0.95
    both = compare_faces(tiny_pipeline, group, group)
    assert [(pair.first, pair.second) for pair in both.pairs] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_only_the_largest_faces_on_request(
    tiny_pipeline: MAPPipeline, group: Image.Image, portrait: np.ndarray
) -> None:
    found = compare_faces(tiny_pipeline, portrait, group, "largest")
    assert [face.compared for face in found.second.faces] == [True, False]
    [pair] = found.pairs
    assert (pair.first, pair.second) == (1, 1)
    everybody = compare_faces(tiny_pipeline, portrait, group)
    assert pair == everybody.pairs[0] != everybody.pairs[1]
    with pytest.raises(UnknownOptionError, match="`faces` must be 'largest', 'all'"):
        compare_faces(tiny_pipeline, portrait, group, "biggest")


def test_problems_of_faces_are_told(tiny_pipeline: MAPPipeline, portrait: np.ndarray) -> None:
    cut = Image.open(ASTRONAUT).convert("RGB").crop((0, 0, 235, 256))
    found = compare_faces(tiny_pipeline, portrait, cut)
    assert found.first.faces[0].problems == ()
    [problem] = found.second.faces[0].problems
    assert problem.startswith("cut off by the edge of the photo")
    assert len(found.pairs) == 1  # it is compared nevertheless


def test_too_small_faces_are_listed_but_not_compared(
    tiny_pipeline: MAPPipeline, portrait: np.ndarray, tiny_face: Image.Image
) -> None:
    photo = Image.new("RGB", (360, 256), "grey")
    photo.paste(Image.fromarray(portrait), (0, 0))
    photo.paste(tiny_face, (260, 100))
    found = compare_faces(tiny_pipeline, photo, portrait)
    assert [face.compared for face in found.first.faces] == [True, False]
    assert "too small" in found.first.faces[1].problems[0]
    assert [(pair.first, pair.second) for pair in found.pairs] == [(1, 1)]
    with pytest.raises(
        FaceTooSmallError,
        match="the second photo: `faces` must be at least 40 px",
    ):
        compare_faces(tiny_pipeline, portrait, tiny_face)


@pytest.mark.usefixtures("overlooks_turned")
def test_faces_that_may_have_been_overlooked_are_told(
    tiny_pipeline: MAPPipeline, portrait: np.ndarray, lying: np.ndarray
) -> None:
    found = compare_faces(tiny_pipeline, portrait, lying)
    assert found.first.doubtful == []
    [box] = found.second.doubtful
    assert box[0] > 256
    assert len(found.pairs) == 1
    turned = compare_faces(tiny_pipeline, portrait, lying, rotate=True)
    assert turned.second.doubtful == []
    for pair in turned.pairs:  # both are the portrait
        assert min(one.similarity for one in pair.recognisers) > 0.95
    assert len(turned.pairs) == 2


def test_untreated_photo_gives_the_report_again(
    tiny_pipeline: MAPPipeline, protected: tuple[np.ndarray, FaceReport]
) -> None:
    photo, report = protected
    original = to_array(load_image(ASTRONAUT))
    untreated, *treated = check_robustness(tiny_pipeline, original, photo, report)
    assert untreated.recognisers == report.recognisers
    assert [untreated.treatment, *(one.treatment for one in treated)] == list(CHECKED)
    for one in treated:
        assert [r.title for r in one.recognisers] == [r.title for r in report.recognisers]
        assert one.recognisers != report.recognisers


@pytest.mark.usefixtures("overlooks_turned")
def test_turned_face_that_was_asked_for_is_found_again(
    tiny_pipeline: MAPPipeline, lying: np.ndarray
) -> None:
    settings = {"target": "second", "refine_steps": 0, "faces": "all"}
    reports = tiny_pipeline(lying, rotate=True, **settings).reports[0]
    [turned] = [report for report in reports if report.box[0] > 256]
    untreated, *_ = check_robustness(tiny_pipeline, lying, lying, turned)
    for one, before in zip(untreated.recognisers, turned.recognisers, strict=True):
        assert one.source_after == pytest.approx(before.source_after, abs=1e-3)


@pytest.mark.slow
def test_own_target_is_measured_again_too(tiny_pipeline: MAPPipeline) -> None:
    output = tiny_pipeline(ASTRONAUT, target=MAN, refine_steps=1)
    [report] = output.reports[0]
    original = to_array(load_image(ASTRONAUT))
    untreated, *_ = check_robustness(
        tiny_pipeline, original, np.array(output.images[0]), report, MAN
    )
    assert untreated.recognisers == report.recognisers


def test_another_photo_tells_whether_a_person_is_found_again(tiny_pipeline: MAPPipeline) -> None:
    """Of two protected faces the one counts that is on the other photo, before and after."""
    woman, man = (load_image(path) for path in (ASTRONAUT, MAN))
    man = man.resize((512, 512))
    both, swapped = Image.new("RGB", (1024, 512)), Image.new("RGB", (1024, 512))
    for picture, photo, x in ((both, woman, 0), (both, man, 512), (swapped, woman, 0)):
        picture.paste(photo, (x, 0))
    swapped.paste(woman, (512, 0))  # instead of a protection that everybody can see
    boxes = [face.box for face in tiny_pipeline.find_faces(to_array(both))]
    assert len(boxes) == 2
    before, after = find_again(tiny_pipeline, both, swapped, boxes, man)
    for one, other in zip(before, after, strict=True):
        assert one.similarity == pytest.approx(1, abs=0.1)
        assert other.similarity < one.similarity
    before, after = find_again(tiny_pipeline, both, both, boxes, woman)
    assert [one.similarity for one in after] == pytest.approx(
        [one.similarity for one in before], abs=0.01
    )
    with pytest.raises(NoFaceError, match="the other photo"):
        find_again(tiny_pipeline, both, both, boxes, Image.new("RGB", (99, 99)))


def test_judging_copy_measures_the_same_with_networks_of_its_own(
    tiny_pipeline: MAPPipeline, protected: tuple[np.ndarray, FaceReport]
) -> None:
    judge = judging_copy(tiny_pipeline)
    for name, net in judge.recognisers.items():
        assert net is not tiny_pipeline.recognisers[name]
    original = to_array(load_image(ASTRONAUT))
    untreated, *_ = check_robustness(judge, original, *protected)
    assert untreated.recognisers == protected[1].recognisers


def test_judging_copy_edits_expressions(editing_pipeline: MAPPipeline) -> None:
    judge = judging_copy(editing_pipeline)
    assert judge.unet is not editing_pipeline.unet
    [here], [there] = (one.edit_expression(ASTRONAUT) for one in (judge, editing_pipeline))
    np.testing.assert_array_equal(np.array(here), np.array(there))
