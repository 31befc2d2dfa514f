"""Several photos in one run: each with its own result, and a bad one doesn't lose the others."""

import json
import os
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from conftest import ASTRONAUT
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from serving import gpu_calls, running_page

from map_pipeline import MAPPipeline
from map_pipeline.errors import UnknownOptionError
from map_pipeline.ui import batch_page, texts
from map_pipeline.ui.batch import Batch, Outcome
from map_pipeline.ui.cache import sweep
from map_pipeline.ui.endpoints import Endpoints
from map_pipeline.ui.models import prepare_models
from map_pipeline.ui.rate_limit import RateLimit
from map_pipeline.ui.service import Job, Progress, Protected, ProtectionService, Update
from map_pipeline.ui.settings import Choices, PageSettings
from map_pipeline.ui.working import AtWork

CHOICES = Choices(steps=1)
MOST = 4  # photos at once


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """One with a face, one without, one that is none, and another with a face, as JPEG."""
    first, blank, text, last = (
        tmp_path / name for name in ("Zeta-a.png", "b.png", "c.png", "Zeta-d.jpg")
    )
    picture = Image.open(ASTRONAUT).convert("RGB")
    picture.save(first)
    Image.new("RGB", (200, 200), "steelblue").save(blank)
    text.write_text("not a picture")
    Image.fromarray(np.roll(np.array(picture), 20, axis=1)).save(last, quality=95)
    return [first, blank, text, last]


# Over HTTP


@pytest.fixture(scope="module")
def page_settings(tiny_checkpoint: Path) -> PageSettings:
    return PageSettings(checkpoint=tiny_checkpoint, batch_photos=MOST)


def protect_all(client: Client, photos: Sequence[Path], **settings: Any) -> tuple:
    files = [handle_file(one) for one in photos]
    settings = {"steps": 1, **settings}
    return client.predict(photos=files, **settings, api_name="/protect_batch")


@pytest.mark.slow
def test_a_bad_photo_does_not_lose_the_others(
    client: Client, photos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = len(gpu_calls)
    file, text, outcomes, seed = protect_all(client, photos, seed=5)
    assert [one["number"] for one in outcomes] == [1, 2, 3, 4]
    assert [one["protected"] for one in outcomes] == [True, False, False, True]
    assert seed == 5
    lines = text.splitlines()
    for number, one in enumerate(outcomes):
        assert lines[number] == f"Photo {number + 1}: {one['verdict']}"
    assert "must show a face" in outcomes[1]["verdict"]
    assert "image must be" in outcomes[2]["verdict"]
    # In one stretch of GPU time, for two faces.
    [(duration, faces, _)] = gpu_calls[calls:]
    assert faces == 2
    assert duration > CHOICES.gpu_seconds(1)

    # The archive holds what every photo alone becomes, under names that give nothing away.
    with zipfile.ZipFile(file) as archive:
        names = ["photo-1.png", "photo-4.jpg", "report.json"]
        assert sorted(archive.namelist()) == names
        assert json.loads(archive.read("report.json")) == outcomes
        archive.extractall(tmp_path / "all")
    for number in (0, 3):
        alone, *_ = client.predict(
            photo=handle_file(photos[number]), steps=1, seed=5, api_name="/protect"
        )
        together = tmp_path / "all" / outcomes[number]["file"]
        np.testing.assert_array_equal(np.array(Image.open(together)), np.array(Image.open(alone)))

    assert "Zeta" not in caplog.text
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert {"protected.zip", photos[0].name} <= {path.name for path in folder.rglob("*")}
    sweep(folder, keep_seconds=0)  # the files
    sweep(folder, keep_seconds=0)  # and the folders, now empty
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_without_any_result_there_is_no_archive(client: Client, photos: list[Path]) -> None:
    calls = len(gpu_calls)
    file, _, outcomes, _ = protect_all(client, photos[1:3])
    assert file is None
    assert [one["file"] for one in outcomes] == [None, None]
    assert len(gpu_calls) == calls  # and no GPU time


@pytest.mark.parametrize(
    ("count", "change", "message"),
    [
        (0, {}, "Choose some photos first"),
        (MOST + 1, {}, f"photos must be at most {MOST} at once, got {MOST + 1}"),
        (1, {"emotion": "bored"}, "emotion must be one of"),
        (1, {"random_seed": "false"}, "random_seed must be true or false, got 'false'"),
        (1, {"own_target": handle_file(ASTRONAUT)}, "confirm that they have agreed"),
    ],
)
def test_what_holds_for_all_is_told_at_once(
    client: Client, count: int, change: dict, message: str
) -> None:
    with pytest.raises(AppError, match=message):
        protect_all(client, [ASTRONAUT] * count, **change)


@pytest.mark.slow
def test_each_photo_counts_for_the_limit_of_a_visitor(
    tiny_pipeline: MAPPipeline, tiny_checkpoint: Path
) -> None:
    settings = PageSettings(checkpoint=tiny_checkpoint, rate_limit=3)
    with running_page(settings, tiny_pipeline) as page:
        visitor = Client(page.local_url, verbose=False)
        protect_all(visitor, [ASTRONAUT] * 2)
        with pytest.raises(AppError, match="1 of your 2 photos can be protected now"):
            protect_all(visitor, [ASTRONAUT] * 2)
        protect_all(visitor, [ASTRONAUT])


# The work itself


@pytest.fixture(scope="module")
def service(tiny_pipeline: MAPPipeline) -> ProtectionService:
    models = prepare_models(tiny_pipeline, "cpu")
    return ProtectionService(lambda: models, background=False)


def batch_of(service: ProtectionService, folder: Path, **options: Any) -> Batch:
    run = options.pop("run", service.run)
    return Batch(service, run, PageSettings(**options), str(folder))


def work(batch: Batch, paths: Sequence[Path], choices: Choices = CHOICES) -> list[Outcome]:
    found = batch.work([str(one) for one in paths], None, choices)
    outcomes = [one for one in found if isinstance(one, Outcome)]
    return sorted(outcomes, key=lambda one: one.number)


def test_progress_names_the_photo_and_pictures_are_read_one_at_a_time(
    service: ProtectionService, tmp_path: Path, photos: list[Path]
) -> None:
    given: list[Job] = []

    def run(jobs: Sequence[Job]) -> Iterator[Update]:
        given.extend(jobs)
        return service.run(jobs)

    batch = batch_of(service, tmp_path, run=run)
    paths = [str(photos[0]), str(photos[3])]
    reply = [one for one in batch.work(paths, None, CHOICES) if isinstance(one, Progress)]
    texts_told = list(dict.fromkeys(one.text for one in reply))
    assert texts_told[:2] == ["Photo 1 of 2: looking for faces", "Photo 2 of 2: looking for faces"]
    first, second = (
        [number for number, text in enumerate(texts_told[2:]) if text.startswith(f"Photo {photo}")]
        for photo in (1, 2)
    )
    assert max(first) < min(second)
    assert [job.photo for job in given] == paths  # not the pictures


@pytest.mark.parametrize("failing", [0, 1])
def test_what_fails_at_work_does_not_lose_the_others(
    service: ProtectionService,
    tmp_path: Path,
    photos: list[Path],
    failing: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    protect = ProtectionService._protect
    paths = [photos[0], photos[3]]

    def fail_once(self: ProtectionService, job: Job, report: Any) -> Protected:
        if job.photo == str(paths[failing]):
            raise RuntimeError(f"of {job.photo}")
        return protect(self, job, report)

    monkeypatch.setattr(ProtectionService, "_protect", fail_once)
    outcomes = work(batch_of(service, tmp_path), paths)
    assert [one.files is None for one in outcomes] == [failing == 0, failing == 1]
    assert outcomes[failing].reason == texts.WRONG_ON_OUR_SIDE
    assert "Zeta" not in caplog.text


def test_minutes_until_an_upload_is_deleted_begin_anew_with_the_work(
    service: ProtectionService, tmp_path: Path, photos: list[Path]
) -> None:
    upload = photos[0]
    page = Endpoints(service, service.run, None, RateLimit(0, 1), [], str(tmp_path), PageSettings())
    visitor = SimpleNamespace(headers={}, client=SimpleNamespace(host="somewhere"))
    started = time.time() - 1
    for update in page.work({"path": str(upload)}, None, CHOICES, visitor):
        assert upload.stat().st_mtime > started or isinstance(update, Progress)
        os.utime(upload, (0, 0))  # minutes later
    # What is pressed first counts from then on, too, whatever waits in the queue.
    AtWork([], None, None)._busy({"path": str(upload)}, [{"image": {"path": str(photos[3])}}], None)
    assert min(upload.stat().st_mtime, photos[3].stat().st_mtime) > started


def test_a_photo_that_needs_more_gpu_time_than_is_lent_is_refused(
    service: ProtectionService, tmp_path: Path
) -> None:
    choices = replace(CHOICES, mode="strong", steps=60)
    needed = choices.gpu_seconds_wanted(faces=1, photos=1)
    batch = batch_of(service, tmp_path, batch_seconds=needed - 1)
    [outcome] = work(batch, [ASTRONAUT], choices)
    assert "GPU time" in outcome.reason
    assert not outcome.files


def test_a_refusal_of_the_gpu_is_told_as_one_and_its_abort_keeps_what_is_done(
    service: ProtectionService, tmp_path: Path, photos: list[Path]
) -> None:
    def refuse(_jobs: Sequence[Job]) -> Iterator[Update]:
        raise gr.Error("quota exceeded")
        yield

    def abort(jobs: Sequence[Job]) -> Iterator[Update]:
        yield from service.run(jobs[:1])
        raise gr.Error("aborted")

    paths = [photos[0], photos[3]]
    with pytest.raises(gr.Error, match="quota exceeded"):
        work(batch_of(service, tmp_path, run=refuse), paths)
    done, lost = work(batch_of(service, tmp_path, run=abort), paths)
    assert done.files
    assert lost.reason == "aborted"


def test_photos_that_the_gpu_has_no_time_for_are_named(
    service: ProtectionService, tmp_path: Path, photos: list[Path]
) -> None:
    choices = replace(CHOICES, mode="strong", steps=60)
    seconds = choices.gpu_seconds_wanted(faces=1, photos=1)

    def run(jobs: Sequence[Job]) -> Iterator[Update]:
        return service.run([replace(job, choices=CHOICES) for job in jobs])

    batch = batch_of(service, tmp_path, run=run, batch_seconds=seconds)
    first, second = work(batch, [photos[0], photos[3]], choices)
    assert first.files
    assert second.reason == texts.NO_TIME_LEFT


def test_too_many_photos_are_refused_before_any_work(
    service: ProtectionService, tmp_path: Path
) -> None:
    with pytest.raises(UnknownOptionError, match="at most 1 at once, got 2"):
        work(batch_of(service, tmp_path, batch_photos=1), [ASTRONAUT, ASTRONAUT])


def test_minutes_until_deletion_count_from_the_end_of_the_work(
    service: ProtectionService, tmp_path: Path, photos: list[Path]
) -> None:
    paths = [photos[0], photos[3]]
    for path in paths:
        os.utime(path, (0, 0))
    started = time.time() - 1
    outcomes = work(batch_of(service, tmp_path), paths)
    written = [Path(name) for one in outcomes for name in one.files]
    assert all(path.stat().st_mtime > started for path in [*paths, *written])
    for path in written:
        os.utime(path, (0, 0))
    sweep(tmp_path, keep_seconds=600)
    assert not any(path.exists() for path in written)


def test_photo_whose_expression_is_copied_outlasts_the_work(
    editing_pipeline: MAPPipeline, tmp_path: Path, photos: list[Path]
) -> None:
    models = prepare_models(editing_pipeline, "cpu")
    service = ProtectionService(lambda: models, background=False, keep_seconds=0.05)
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    other = uploads / "other.png"
    Image.open(ASTRONAUT).save(other)

    def run(jobs: Sequence[Job]) -> Iterator[Update]:
        for job in jobs:
            touched = other.stat().st_mtime - 400  # most of the minutes until deletion go by
            os.utime(other, (touched, touched))
            sweep(uploads, keep_seconds=600)
            yield from service.run([job])

    choices = replace(CHOICES, expression_of={"path": str(other)})
    batch = batch_of(service, tmp_path, run=run)
    assert all(one.files for one in work(batch, [photos[0], photos[3]], choices))


def test_batch_tells_how_long_a_face_takes(
    tiny_pipeline: MAPPipeline, tmp_path: Path, photos: list[Path]
) -> None:
    models = replace(prepare_models(tiny_pipeline, "cpu"), seconds=None)
    service = ProtectionService(lambda: models, background=False)

    def run(jobs: Sequence[Job]) -> Iterator[Update]:
        return service.run([replace(job, choices=CHOICES) for job in jobs])

    assert service.expected_seconds() is None
    work(batch_of(service, tmp_path, run=run), [photos[0]], Choices())
    assert service.expected_seconds()["fast"] > 0


def test_page_has_a_line_per_photo_with_verdict_or_reason(
    service: ProtectionService, tmp_path: Path, photos: list[Path]
) -> None:
    outcomes = work(batch_of(service, tmp_path), photos[:2])
    shown = batch_page.outcome_list(3, outcomes)
    first, second, third = shown.split("<li")[1:]
    assert "recognition programs still find you" in first
    assert "Left as it is: " in second
    assert "must show a face" in second
    assert "waiting" in third
