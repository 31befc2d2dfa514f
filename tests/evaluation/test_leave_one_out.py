import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from conftest import ASTRONAUT
from PIL import Image

from map_pipeline import MAPPipeline
from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation.data import Pair, TargetPhotos
from map_pipeline.evaluation.leave_one_out import (
    SUMMARY_HEADER,
    Row,
    append_row,
    judge_photo,
    read_rows,
    run,
    share,
    summarise,
    without_family,
)
from map_pipeline.images import load_image, to_array

SETTINGS = {"refine_steps": 1, "num_inversion_steps": 2, "num_inference_steps": 2}
ROW = Row(
    photo="001",
    judge="judge",
    threshold=0.5,
    target_clean=0.1,
    target_protected=0.6,
    target_shared=0.4,
    person_clean=0.9,
    person_protected=0.3,
    person_shared=0.7,
    found=True,
    ssim=0.96,
    psnr=30.0,
    seconds=8.0,
)


def encode(photo: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return to_array(load_image(ASTRONAUT))[:256, 96:352]


@pytest.fixture(scope="module")
def pair(portrait: np.ndarray) -> Pair:
    return Pair("001", encode(portrait), encode(portrait[:, ::-1]))


@pytest.fixture(scope="module")
def target(portrait: np.ndarray) -> TargetPhotos:
    return TargetPhotos("77", encode(portrait), encode(portrait[:, ::-1]))


def test_rows_survive_the_csv(tmp_path: Path) -> None:
    rows = [
        ROW,
        dataclasses.replace(ROW, photo='a "quoted", name', found=False, psnr=1 / 3),
        dataclasses.replace(ROW, judge="other", ssim=1e-17, target_clean=-0.25),
    ]
    for row in rows:
        append_row(tmp_path / "rows.csv", row)
    assert read_rows(tmp_path / "rows.csv") == rows
    assert (tmp_path / "rows.csv").read_text().count("photo,judge") == 1


def test_no_file_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "rows.csv") == []


def test_summary_of_known_rows() -> None:
    rows = [
        ROW,
        dataclasses.replace(ROW, photo="002", target_protected=0.5, ssim=0.92, seconds=10.0),
        dataclasses.replace(
            ROW, photo="003", target_protected=0.4999, person_protected=0.5, seconds=90.0
        ),
        dataclasses.replace(ROW, photo="004", target_clean=0.5, psnr=34.0, seconds=10.0),
        dataclasses.replace(
            ROW, judge="other", target_shared=0.9, person_clean=0.1, person_shared=0.1
        ),
    ]
    first, second, mean = summarise(rows)
    # A similarity on the threshold is a match.
    assert first == [
        "judge", "4", "25.0 -> 75.0 %", "0.0 %", "0.0 -> 75.0 %", "0.0 %", "0.950", "31.0 dB",
        "10.0",
    ]  # fmt: skip
    assert second == [
        "other", "1", "0.0 -> 100.0 %", "100.0 %", "100.0 -> 100.0 %", "100.0 %", "0.960",
        "30.0 dB", "8.0",
    ]  # fmt: skip
    # The mean is over judges, however many photos each of them saw.
    assert mean == [
        "mean", "5", "12.5 -> 87.5 %", "50.0 %", "50.0 -> 87.5 %", "50.0 %", "0.955", "30.5 dB",
        "9.0",
    ]  # fmt: skip
    assert len(SUMMARY_HEADER) == len(first) == len(second) == len(mean)


def test_the_whole_family_is_left_out(tiny_pipeline: MAPPipeline) -> None:
    """Of dlib_resnet, mobilefacenet and faceres the last two are of one family here."""
    assert without_family(tiny_pipeline, "dlib_resnet") == ["mobilefacenet"]
    assert without_family(tiny_pipeline, "faceres") == ["dlib_resnet"]
    assert without_family(tiny_pipeline, "mobilefacenet") == ["dlib_resnet"]


def test_no_judge_of_the_bundled_checkpoint_helps_against_itself(
    bundled_pipeline: MAPPipeline,
) -> None:
    for judge, net in bundled_pipeline.recognisers.items():
        chosen = without_family(bundled_pipeline, judge)
        families = {bundled_pipeline.recognisers[name].config.family for name in chosen}
        assert chosen
        assert net.config.family not in families


def test_unknown_judge(tiny_pipeline: MAPPipeline) -> None:
    with pytest.raises(UnknownOptionError, match=r"`judge` must be one of dlib_resnet.*got 'eve'"):
        without_family(tiny_pipeline, "eve")


@pytest.mark.parametrize("shape", [(64, 48, 3), (101, 80, 3)])
def test_sharing_halves_the_size(shape: tuple[int, int, int], portrait: np.ndarray) -> None:
    photo = portrait[: shape[0], : shape[1]]
    shared = share(photo)
    assert shared.shape == (shape[0] // 2, shape[1] // 2, 3)
    assert shared.dtype == np.uint8


def test_sharing_loses_detail_but_not_the_picture(portrait: np.ndarray) -> None:
    half = to_array(Image.fromarray(portrait).resize((128, 128), Image.Resampling.BICUBIC))
    difference = np.abs(share(portrait).astype(int) - half).mean()
    assert 0.3 < difference < 5


def test_run_judges_every_photo_once_per_judge(
    tiny_pipeline: MAPPipeline, pair: Pair, target: TargetPhotos, tmp_path: Path
) -> None:
    judges = ["dlib_resnet", "faceres"]
    rows = run(tiny_pipeline, [pair], target, judges, "happy", tmp_path, **SETTINGS)
    assert [(row.photo, row.judge) for row in rows] == [("001", judge) for judge in judges]
    assert read_rows(tmp_path / "results.csv") == rows
    for row in rows:
        assert row.threshold == tiny_pipeline.recognisers[row.judge].threshold(0.01)
        # Target and person are the same picture here, so the judge must see them alike.
        assert row.target_clean == row.person_clean
        assert row.target_protected == row.person_protected
        assert row.found
        assert 0 < row.ssim < 1
        assert 10 < row.psnr < 80
        assert row.seconds > 0
        with Image.open(tmp_path / f"001_without_{row.judge}.png") as image:
            assert image.size == (256, 256)


def test_run_resumes(
    tiny_pipeline: MAPPipeline, pair: Pair, target: TargetPhotos, tmp_path: Path
) -> None:
    """A row that is there already is taken as it is; one of another set is left out."""
    done = dataclasses.replace(ROW, judge="dlib_resnet", seconds=1234.0)
    stranger = dataclasses.replace(ROW, photo="999", judge="dlib_resnet")
    for row in (done, stranger):
        append_row(tmp_path / "results.csv", row)
    judges = ["dlib_resnet", "mobilefacenet"]
    rows = run(tiny_pipeline, [pair], target, judges, "happy", tmp_path, **SETTINGS)
    assert rows[0] == done
    assert [(row.photo, row.judge) for row in rows] == [("001", judge) for judge in judges]
    assert len(read_rows(tmp_path / "results.csv")) == 3
    assert not (tmp_path / "001_without_dlib_resnet.png").exists()
    again = run(tiny_pipeline, [pair], target, judges, "happy", tmp_path, **SETTINGS)
    assert again == rows


def test_a_face_that_sharing_makes_small_is_still_judged(
    tiny_pipeline: MAPPipeline, portrait: np.ndarray
) -> None:
    """50 px may be protected; the 25 px that sharing leaves are a judge's business, too."""
    small = to_array(Image.fromarray(portrait).resize((140, 140), Image.Resampling.LANCZOS))
    pair = Pair("001", encode(small), encode(portrait))
    row = judge_photo(tiny_pipeline, pair, "faceres", small, portrait, seconds=1.0)
    assert row.found
    assert row.target_shared != row.target_clean


def test_a_face_that_is_gone_fails_both_tests(
    tiny_pipeline: MAPPipeline, pair: Pair, portrait: np.ndarray
) -> None:
    gone = np.full_like(portrait, 128)
    row = judge_photo(tiny_pipeline, pair, "faceres", gone, portrait, seconds=1.0)
    assert not row.found
    assert row.target_protected == row.target_shared == -1
    assert row.person_protected == row.person_shared == 1


def test_a_folder_holds_one_run(
    tiny_pipeline: MAPPipeline, pair: Pair, target: TargetPhotos, tmp_path: Path
) -> None:
    run(tiny_pipeline, [pair], target, ["faceres"], "happy", tmp_path, **SETTINGS)
    with pytest.raises(UnknownOptionError, match="`out` must be a new folder"):
        run(tiny_pipeline, [pair], target, ["faceres"], "sad", tmp_path, **SETTINGS)


def test_an_unchanged_photo_has_no_noise(
    tiny_pipeline: MAPPipeline, pair: Pair, portrait: np.ndarray
) -> None:
    row = judge_photo(tiny_pipeline, pair, "faceres", portrait, portrait, seconds=1.0)
    assert row.ssim == pytest.approx(1)
    assert row.psnr == pytest.approx(100)  # finite, so that a mean over photos stays one
    assert row.target_clean == pytest.approx(1, abs=1e-4)
    assert row.target_protected == pytest.approx(row.target_clean)
