"""The page, driven over HTTP as a browser or a script drives it, on the bundled checkpoint."""

import dataclasses
import json
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import spaces
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
from map_pipeline import MAPPipeline, ui
from map_pipeline.config import MODES
from map_pipeline.report import FaceReport, RecogniserReport

ASTRONAUT = Path(__file__).parent.parent / "examples" / "astronaut.png"
FACE_BOX = (177, 62, 270, 180)  # where its face is, px
QUICK = dataclasses.asdict(ui.DEFAULTS) | {"steps": 1}

# Every call over the boundary to the GPU worker: duration asked for, number of faces and steps.
gpu_calls: list[tuple[int, int, int]] = []


def pickling_gpu(duration: Callable[..., int]) -> Callable:
    """What `spaces.GPU` does to a call on ZeroGPU, as far as a CPU can: ask for a duration with
    exactly the call's arguments, and pass arguments, result and error through pickle."""

    def decorate(task: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            asked = duration(*args, **kwargs)
            gpu_calls.append((asked, len(args[2]), args[1].steps))
            args, kwargs = pickle.loads(pickle.dumps((args, kwargs)))
            try:
                return pickle.loads(pickle.dumps(task(*args, **kwargs)))
            except Exception as error:
                raise pickle.loads(pickle.dumps(error)) from None

        return call

    return decorate


@pytest.fixture(scope="module")
def pipe() -> MAPPipeline:
    return MAPPipeline.from_pretrained()


@pytest.fixture(scope="module")
def demo(pipe: MAPPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[gr.Blocks]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spaces, "GPU", pickling_gpu)
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        page = app.build_demo(lambda: pipe).queue(max_size=20)
        page.launch(
            **app.LAUNCH, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", share=False
        )
        yield page
        page.close()


@pytest.fixture(scope="module")
def client(demo: gr.Blocks, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(
        demo.local_url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads"))
    )


def pixels(path: str | Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def shifted(path: Path, columns: int) -> np.ndarray:
    """The portrait moved to the right, so that each user has a photo of their own."""
    return np.roll(pixels(path), columns, axis=1)


@pytest.fixture(scope="module")
def result(client: Client) -> tuple:
    return client.predict(photo=handle_file(ASTRONAUT), **QUICK, api_name="/protect")


def test_protected_photo_comes_back(result: tuple, pipe: MAPPipeline) -> None:
    (before, after), *_, download = result
    original = pixels(ASTRONAUT)
    np.testing.assert_array_equal(pixels(before), original)
    assert pixels(after).shape == original.shape
    np.testing.assert_array_equal(pixels(after), pixels(download))
    changed = np.argwhere((pixels(after) != original).any(-1))
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    x0, y0, x1, y1 = FACE_BOX
    assert left < x0 + 30
    assert top < y0 + 40
    assert right > x1 - 30
    assert bottom > y1 - 40
    assert (pixels(after)[300:] == original[300:]).all()  # far below the face

    # The page adds nothing of its own: the same as the pipeline, pixel for pixel.
    alone = pipe(
        ASTRONAUT,
        mode="fast",
        strength=0.5,
        expression_strength=0.5,
        refine_steps=1,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    )
    np.testing.assert_array_equal(pixels(after), alone.images[0])


def test_download_has_no_metadata_and_a_generic_name(result: tuple) -> None:
    download = Path(result[-1])
    assert download.name == "protected.png"
    with Image.open(download) as image:
        assert image.format == "PNG"
        assert image.info == {}


def test_report_reaches_tables_and_text(result: tuple, pipe: MAPPipeline) -> None:
    _, text, table, expressions, report, _ = result
    assert "recognisers no longer match you" in text
    assert table["headers"] == ui.RECOGNISER_COLUMNS
    titles = [net.config.title for net in pipe.recognisers.values()]
    assert [row[1] for row in table["data"]] == titles
    assert len(expressions["data"]) == len(pipe.encoders)
    [face] = report
    assert face["emotion"] == "happy"
    assert face["target"] in pipe.targets.names
    json.dumps(face, allow_nan=False)


def test_calls_to_the_gpu_ask_for_their_own_duration(result: tuple) -> None:  # noqa: ARG001
    assert gpu_calls[0] == (gpu_seconds(faces=1, steps=1), 1, 1)


def gpu_seconds(faces: int, steps: int, mode: str = "fast") -> int:
    return dataclasses.replace(ui.DEFAULTS, mode=mode, steps=steps).gpu_seconds(faces)


@pytest.mark.parametrize("faces", [1, 2, 50])
def test_gpu_seconds_grow_with_work_and_stay_below_the_limit(faces: int) -> None:
    for mode, limit in (("fast", 20), ("strong", 60)):
        seconds = [gpu_seconds(faces, steps, mode) for steps in (1, 10, 25, 60)]
        assert seconds == sorted(seconds)
        assert all(isinstance(s, int) and 1 <= s <= limit for s in seconds)
        own = MODES[mode].refine_steps
        assert gpu_seconds(faces, 0, mode) == gpu_seconds(faces, own, mode)
    assert gpu_seconds(faces, 0, "fast") < gpu_seconds(faces, 0, "strong")
    assert gpu_seconds(1, 0, "strong") <= 20  # a visitor's quota is two minutes a day


def test_choices_of_the_mode_name_their_seconds() -> None:
    assert ui.DEFAULTS.mode == "fast"
    assert [mode for _, mode in ui.MODE_CHOICES] == list(MODES) == list(ui.MODE_SECONDS)
    for text, mode in ui.MODE_CHOICES:
        assert f"about {ui.MODE_SECONDS[mode]} seconds" in text
    assert ui.MODE_SECONDS["fast"] < ui.MODE_SECONDS["strong"]


def test_progress_counts_the_steps(client: Client, result: tuple) -> None:  # noqa: ARG001
    """What a visitor is told while waiting: what goes on, and the step and their number."""
    told = []
    settings = QUICK | {"steps": 3, "expression_strength": 0}
    job = client.submit(photo=handle_file(ASTRONAUT), **settings, api_name="/protect")
    while not job.done():
        told += [(one.desc, one.index, one.length) for one in job.status().progress_data or []]
        time.sleep(0.02)
    job.result()
    assert ("Protecting the face", 2, 3) in told
    assert told[-1] == ("Checking the result", 3, 3)
    order = list(dict.fromkeys(desc for desc, _, _ in told))
    assert order[-2:] == ["Protecting the face", "Checking the result"]


def test_progress_names_the_face() -> None:
    texts = [ui.step_progress(done, 6, faces=3) for done in range(7)]
    first, second, third = (f"Protecting face {number} of 3" for number in (1, 2, 3))
    assert texts == [first, first, second, second, third, third, "Checking the result"]


def test_two_users_at_once_get_their_own_photos(client: Client, tmp_path: Path) -> None:
    def protect(columns: int) -> tuple[np.ndarray, np.ndarray]:
        photo = tmp_path / f"{columns}.png"
        Image.fromarray(shifted(ASTRONAUT, columns)).save(photo)
        (before, after), *_ = client.predict(photo=handle_file(photo), **QUICK, api_name="/protect")
        return pixels(before), pixels(after)

    with ThreadPoolExecutor(2) as users:
        results = list(users.map(protect, (20, 40)))
    for columns, (before, after) in zip((20, 40), results, strict=True):
        np.testing.assert_array_equal(before, shifted(ASTRONAUT, columns))
        np.testing.assert_array_equal(after[300:], before[300:])
        assert (after != before).any()


def picture(folder: Path, name: str) -> Path:
    """A bad upload by name."""
    path = folder / "upload.png"
    photo = Image.open(ASTRONAUT).convert("RGB")
    if name == "no face":
        Image.new("RGB", (200, 200), "steelblue").save(path)
    elif name == "small face":
        photo.resize((170, 170)).save(path)  # its face becomes 31 px wide
    elif name == "text":
        path.write_text("not a picture")
    elif name == "truncated":
        photo.save(path)
        path.write_bytes(path.read_bytes()[:2000])
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no face", "must show a face"),
        ("small face", "at least 40 px"),
        ("text", "must be a whole"),
        ("truncated", "must be a whole"),
    ],
)
def test_bad_upload_is_told_in_plain_words(
    client: Client, tmp_path: Path, name: str, message: str
) -> None:
    calls = len(gpu_calls)
    with pytest.raises(AppError, match=message) as error:
        client.predict(photo=handle_file(picture(tmp_path, name)), **QUICK, api_name="/protect")
    assert "Traceback" not in str(error.value)
    assert "/" not in str(error.value)  # no path of the server
    assert len(gpu_calls) == calls  # and no GPU time


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photo": None}, "Choose a photo first"),
        ({"emotion": "bored"}, "emotion must be one of"),
        ({"target": str(ASTRONAUT)}, "target must be one of"),  # no file of the server
        ({"faces": "none"}, "faces must be one of"),
        ({"mode": "slow"}, "mode must be one of"),
        ({"expression_strength": 1.5}, "expression_strength must be in"),
        ({"expression_strength": None}, "expression_strength must be in"),
        ({"seed": -1}, "seed must be in"),
        ({"strength": 2}, "strength must be in"),
        ({"steps": 10_000}, "steps must be in"),
    ],
)
def test_bad_choice_is_told_in_plain_words(client: Client, change: dict, message: str) -> None:
    with pytest.raises(AppError, match=message):
        client.predict(**{"photo": handle_file(ASTRONAUT), **QUICK, **change}, api_name="/protect")


def test_unforeseen_error_tells_nothing_about_the_photo(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = "-".join(["me", "at", "home.jpg"])
    with pytest.raises(gr.Error) as error, app.errors_in_plain_words():
        raise RuntimeError(secret)
    assert secret not in str(error.value)
    assert error.value.print_exception is False
    assert "RuntimeError" in caplog.text
    assert "test_app.py" in caplog.text  # where it happened
    assert secret not in caplog.text


def test_quota_errors_pass_unchanged() -> None:
    with pytest.raises(gr.Error, match="quota exceeded"), app.errors_in_plain_words():
        raise gr.Error("ZeroGPU quota exceeded")


def test_uploads_and_results_are_forgotten(demo: gr.Blocks, result: tuple) -> None:
    assert demo.delete_cache == (600, 600)
    assert app.LAUNCH["run_history"] is False
    assert demo.analytics_enabled is False
    assert not demo.enable_monitoring
    # All pictures of a run are on the list of files that Gradio deletes.
    listed = {Path(file) for files in demo.temp_file_sets for file in files}
    cache = Path(next(b.GRADIO_CACHE for b in demo.blocks.values() if hasattr(b, "GRADIO_CACHE")))
    written = {path for path in cache.rglob("*") if path.name in ("original.png", "protected.png")}
    assert result
    assert written
    assert written <= listed


def report(matches: list[tuple[bool | None, bool | None, bool]]) -> FaceReport:
    """A face report with (no_longer_matches, impersonates, used) per recogniser."""
    recognisers = [
        RecogniserReport("r", "R", "f", used, {}, 0.0, 0.5, 0.2, impersonates, unmatched)
        for unmatched, impersonates, used in matches
    ]
    return FaceReport((0, 0, 9, 9), "d", "happy", "t", 0.97, 33.0, 1.0, recognisers)


def test_verdict_counts_recognisers_with_a_threshold() -> None:
    text = ui.verdict([report([(True, True, True), (True, False, False), (None, None, False)])])
    assert text.startswith("**2 of 2 recognisers no longer match you**; 1 of 2 see the target.")
    assert "1 of them was not used in the editing." in text


def test_verdict_has_a_paragraph_per_face() -> None:
    faces = [report([(True, True, True)]), report([(False, False, True)])]
    first, second = ui.verdict(faces).split("\n\n")
    assert first.startswith("**Face 1:** **1 of 1")
    assert second.startswith("**Face 2:** **0 of 1")
    assert [row[0] for row in ui.recogniser_rows(faces)] == ["1", "2"]
