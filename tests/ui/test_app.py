"""The page over HTTP, as programs and browsers drive it, with small networks of random weights."""

import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from conftest import ASTRONAUT, EXAMPLES, VIDEO_CALL
from gradio.utils import get_function_description
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from serving import gpu_calls, pickling_gpu, protect, running_page

from map_pipeline import MAPPipeline
from map_pipeline.errors import CheckpointError
from map_pipeline.ui.cache import sweep
from map_pipeline.ui.models import Models
from map_pipeline.ui.requests import errors_in_plain_words
from map_pipeline.ui.settings import PageSettings


@pytest.fixture(scope="module")
def page_settings(tiny_checkpoint: Path) -> PageSettings:
    return PageSettings(checkpoint=tiny_checkpoint, concurrency=4)


def pixels(path: str | Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def compare(client: Client, first: Path, second: Path) -> dict:
    return client.predict(handle_file(first), handle_file(second), api_name="/compare")


@pytest.fixture(scope="module")
def result(client: Client) -> tuple:
    return protect(client, ASTRONAUT)


def test_protected_photo_is_that_of_the_pipeline(result: tuple, tiny_pipeline: MAPPipeline) -> None:
    alone = tiny_pipeline(
        ASTRONAUT,
        mode="fast",
        margin="normal",
        expression_strength=0.5,
        refine_steps=1,
        generator=torch.Generator().manual_seed(0),
    )
    np.testing.assert_array_equal(pixels(result[0]), np.array(alone.images[0]))


def test_download_has_no_metadata_and_a_generic_name(result: tuple) -> None:
    assert Path(result[0]).name == "protected.png"
    with Image.open(result[0]) as image:
        assert image.format == "PNG"
        assert image.info == {}


def test_verdict_report_and_seed_come_with_it(result: tuple, tiny_pipeline: MAPPipeline) -> None:
    _, text, [face], seed = result
    assert "of 3 recognition programs still find" in text
    titles = [net.config.title for net in tiny_pipeline.recognisers.values()]
    assert [one["title"] for one in face["recognisers"]] == titles
    assert face["target"] is None  # nobody is asked for
    assert seed == 0
    json.dumps(face, allow_nan=False)


@pytest.mark.slow
def test_a_new_seed_is_told_and_gives_the_same_again(client: Client) -> None:
    photo, _, _, seed = protect(client, ASTRONAUT, mode="strong", random_seed=True)
    assert seed != 0
    again, *_ = protect(client, ASTRONAUT, mode="strong", seed=seed)
    np.testing.assert_array_equal(pixels(photo), pixels(again))


def test_programs_find_the_endpoints_with_their_descriptions(client: Client) -> None:
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    names = ("protect", "protect_batch", "protect_clip", "preview", "detect", "compare", "targets")
    assert set(endpoints) == {f"/{name}" for name in names}
    assert all(one["description"] for one in endpoints.values())
    parameters = {one["parameter_name"]: one for one in endpoints["/protect"]["parameters"]}
    required = [name for name, one in parameters.items() if not one["parameter_has_default"]]
    assert required == ["photo"]


def test_what_mcp_clients_are_told_of_arguments_is_a_schema(client: Client) -> None:
    for endpoint in client.view_api(return_format="dict")["named_endpoints"].values():
        for one in endpoint["parameters"]:
            kinds = json.dumps(one["type"])
            assert '"type": {}' not in kinds, (one["parameter_name"], kinds)
            assert '"enum": []' not in kinds, (one["parameter_name"], kinds)
            assert '"items": {"$ref"' not in kinds, (one["parameter_name"], kinds)


def test_mcp_clients_are_told_whole_sentences(demo: gr.Blocks) -> None:
    for endpoint in demo.fns.values():
        if endpoint.api_visibility == "public":
            _, arguments, answer = get_function_description(endpoint.fn)
            texts = [text for name, text in arguments.items() if name != "request"] + answer
            assert all(text.endswith(".") for text in texts), (endpoint.api_name, texts)


@pytest.mark.slow
def test_faces_are_listed_and_chosen_by_number(client: Client) -> None:
    faces = client.predict(handle_file(VIDEO_CALL), api_name="/detect")
    assert [one["number"] for one in faces] == [1, 2, 3, 4]
    assert all(one["clear"] for one in faces)
    after, text, reports, _ = protect(client, VIDEO_CALL, faces=[2, 3])
    assert [one["box"] for one in reports] == [faces[1]["box"], faces[2]["box"]]
    assert "Face 2:" in text  # as they are numbered on the photo
    assert "Face 3:" in text
    assert "2 of 4 faces" in text
    x0, y0, x1, y1 = (round(corner) for corner in faces[0]["box"])
    middle = (slice((2 * y0 + y1) // 3, (y0 + 2 * y1) // 3), slice((2 * x0 + x1) // 3, x1))
    np.testing.assert_array_equal(pixels(after)[middle], pixels(VIDEO_CALL)[middle])
    _, _, everybody, _ = protect(client, VIDEO_CALL, emotions={"2": "sad", "4": "fear"})
    assert [one["emotion"] for one in everybody] == ["happy", "sad", "happy", "fear"]


@pytest.mark.slow
def test_targets_are_listed_and_chosen_by_name(client: Client, tiny_pipeline: MAPPipeline) -> None:
    targets = client.predict(api_name="/targets")
    assert [one["name"] for one in targets] == tiny_pipeline.targets.names
    _, _, [face], _ = protect(client, ASTRONAUT, target="second")
    assert face["target"] == "second"


@pytest.mark.slow
def test_own_target_needs_consent(client: Client) -> None:
    own = handle_file(EXAMPLES / "man-older-dark.png")
    with pytest.raises(AppError, match="confirm that they have agreed"):
        protect(client, ASTRONAUT, own_target=own)
    _, _, [face], _ = protect(client, ASTRONAUT, own_target=own, consent=True)
    assert face["target"] == "own image"


def test_what_is_odd_about_an_own_target_is_told(client: Client, tmp_path: Path) -> None:
    group = tmp_path / "group.gif"
    frames = Image.open(VIDEO_CALL).convert("RGB"), Image.open(ASTRONAUT).convert("RGB")
    frames[0].save(group, save_all=True, append_images=frames[1:])
    own = handle_file(group)
    _, text, [face], _ = protect(client, ASTRONAUT, own_target=own, consent=True)
    [several, faces] = sorted(face["photo"]["notes"])
    assert "target picture: only one of several pictures" in several
    assert "the target picture shows 4 faces" in faces
    assert "4 faces; the largest was taken" in text


def test_two_photos_are_compared_by_every_recogniser(
    client: Client, tiny_pipeline: MAPPipeline
) -> None:
    [pair] = compare(client, ASTRONAUT, ASTRONAUT)["pairs"]
    same = pair["recognisers"]
    assert [one["name"] for one in same] == list(tiny_pipeline.recognisers)
    assert all(one["similarity"] == pytest.approx(1, abs=1e-4) for one in same)
    assert all(one["matches"] for one in same)


def test_faces_of_compared_photos_and_their_problems_are_told(
    client: Client, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.png"  # nearly half of the face lies outside
    Image.fromarray(pixels(ASTRONAUT)[:256, :235]).save(cut)
    reply = compare(client, VIDEO_CALL, cut)
    faces = client.predict(handle_file(VIDEO_CALL), api_name="/detect")
    assert [one["box"] for one in reply["first"]["faces"]] == [one["box"] for one in faces]
    assert [one["compared"] for one in reply["first"]["faces"]] == [True, False, False, False]
    [face] = reply["second"]["faces"]
    assert "cut off by the edge" in face["problems"][0]


@pytest.mark.usefixtures("overlooks_turned")
def test_turned_faces_are_found_on_request(
    client: Client, lying: np.ndarray, tmp_path: Path
) -> None:
    photo = tmp_path / "lying.png"
    Image.fromarray(lying).save(photo)
    assert len(client.predict(handle_file(photo), api_name="/detect")) == 1
    faces = client.predict(handle_file(photo), rotate=True, api_name="/detect")
    assert len(faces) == 2
    _, _, reports, _ = protect(client, photo, rotate=True)
    assert sorted(one["box"][0] > 256 for one in reports) == [False, True]
    assert len(compare(client, photo, ASTRONAUT)["first"]["doubtful"]) == 1
    with pytest.raises(AppError, match="rotate must be true or false"):
        client.predict(handle_file(photo), rotate="yes", api_name="/detect")


@pytest.mark.slow
def test_four_users_at_once_get_their_own_photos(client: Client, tmp_path: Path) -> None:
    """Each result is, to the last bit, that of a user who is alone."""
    photos = []
    for number in range(4):
        photos.append(tmp_path / f"{number}.png")
        Image.fromarray(np.roll(pixels(ASTRONAUT), 20 * number, axis=1)).save(photos[-1])
    emotions = ["happy", "sad", "angry", "surprise"]

    def run(number: int) -> np.ndarray:
        after, *_ = protect(client, photos[number], emotion=emotions[number], seed=number, steps=2)
        return pixels(after)

    with ThreadPoolExecutor(4) as users:
        together = list(users.map(run, range(4)))
    for number, after in enumerate(together):
        np.testing.assert_array_equal(after, run(number))


@pytest.mark.slow
def test_progress_counts_the_steps(client: Client) -> None:
    job = client.submit(photo=handle_file(ASTRONAUT), steps=3, api_name="/protect")
    job.result()
    reply = [one[1] for one in job.outputs()]
    assert reply[0] == "Looking for faces"
    assert "Protecting the face" in reply
    assert reply[-2] == "Checking the result"
    assert [one.done for one in gpu_calls[-1][2][:-1]] == [0, 1, 2, 3]


@pytest.mark.slow
def test_stopping_a_job_stops_the_work(client: Client) -> None:
    job = client.submit(photo=handle_file(ASTRONAUT), steps=60, mode="strong", api_name="/protect")
    while len(job.outputs()) < 3:
        time.sleep(0.01)
    job.cancel()
    reply = gpu_calls[-1][2]
    for _ in range(100):
        if reply[-1] == "closed":
            break
        time.sleep(0.05)
    assert reply[-1] == "closed"
    assert len(reply) < 60
    assert protect(client, ASTRONAUT)  # and the page goes on


def test_calls_to_the_gpu_ask_for_their_own_duration(result: tuple) -> None:
    duration, faces, reply = gpu_calls[0]
    assert result
    assert faces == 1
    assert 1 <= duration <= 20
    assert reply[-1].reports


def jpeg_of_astronaut(folder: Path) -> Path:
    Image.open(ASTRONAUT).convert("RGB").save(folder / "photo.jpg", quality=90)
    return folder / "photo.jpg"


def test_jpeg_comes_back_as_jpeg_with_full_colour(client: Client, tmp_path: Path) -> None:
    photo = jpeg_of_astronaut(tmp_path)
    exact, small = (protect(client, photo, **options)[0] for options in ({"file_type": "png"}, {}))
    with Image.open(exact) as png, Image.open(small) as jpeg:
        assert (png.format, jpeg.format) == ("PNG", "JPEG")
        assert jpeg.layer[0][1:3] == jpeg.layer[1][1:3]  # 4:4:4
        assert jpeg.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert np.abs(pixels(exact).astype(int) - pixels(small)).mean() < 2
    assert Path(small).stat().st_size < Path(exact).stat().st_size / 2
    assert compare(client, photo, small)["pairs"]


def test_png_comes_back_as_jpeg_on_request(client: Client) -> None:
    with Image.open(protect(client, ASTRONAUT, file_type="jpeg")[0]) as image:
        assert image.format == "JPEG"


def test_page_says_what_the_photo_lost(client: Client, tmp_path: Path) -> None:
    image = Image.open(ASTRONAUT).convert("RGB")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 30, 512))
    image.putalpha(alpha)
    image.save(tmp_path / "cutout.png")
    kept, text, [face], _ = protect(client, tmp_path / "cutout.png")
    flat, flat_text, [flat_face], _ = protect(client, tmp_path / "cutout.png", file_type="jpeg")
    with Image.open(kept) as result:
        np.testing.assert_array_equal(np.array(result)[..., 3], np.array(alpha))
    assert pixels(flat)[:, :20].min() > 240
    assert face["photo"]["notes"] == []
    [note] = flat_face["photo"]["notes"]
    assert note[1:] in flat_text
    assert note[1:] not in text
    image.convert("RGB").convert("CMYK").save(tmp_path / "cmyk.jpg")
    _, text, [face], _ = protect(client, tmp_path / "cmyk.jpg")
    [note] = face["photo"]["notes"]
    assert "CMYK" in note
    assert note[1:] in text


def test_no_session_remembers_what_was_shown(demo: gr.Blocks, tmp_path: Path) -> None:
    path = tmp_path / "Zeta-Qoph.png"
    path.write_bytes(ASTRONAUT.read_bytes())
    visitor, before = Client(demo.local_url, verbose=False), set(demo.state_holder.session_data)
    protect(visitor, path)
    with pytest.raises(AppError, match="must be one of"):
        protect(visitor, path, emotion="bored")
    [session] = set(demo.state_holder.session_data) - before
    remembered = repr(demo.state_holder.session_data[session].config_values)
    assert "protected.png" not in remembered
    assert path.name not in remembered


def test_unforeseen_error_tells_nothing_about_the_photo(caplog: pytest.LogCaptureFixture) -> None:
    secret = "-".join(["me", "at", "home.jpg"])
    with pytest.raises(gr.Error) as error, errors_in_plain_words():
        raise RuntimeError(secret)
    assert secret not in str(error.value)
    assert error.value.print_exception is False
    assert "RuntimeError" in caplog.text
    assert "test_app.py" in caplog.text  # where it happened
    assert secret not in caplog.text


def test_quota_errors_pass_unchanged() -> None:
    with pytest.raises(gr.Error, match="quota exceeded"), errors_in_plain_words():
        raise gr.Error("ZeroGPU quota exceeded")


def test_uploads_and_results_are_forgotten(
    demo: gr.Blocks, result: tuple, caplog: pytest.LogCaptureFixture
) -> None:
    assert result
    assert demo.delete_cache == (600, 600)
    assert demo.run_history is False
    assert demo.analytics_enabled is False
    assert not demo.enable_monitoring
    assert "astronaut" not in caplog.text
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    written = {path.name for path in folder.rglob("*")}
    assert {"astronaut.png", "protected.png", "report.json"} <= written
    sweep(folder, keep_seconds=0)  # the files
    sweep(folder, keep_seconds=0)  # and the folders, now empty
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_a_public_page_can_limit_its_visitors(
    tiny_pipeline: MAPPipeline, tiny_checkpoint: Path
) -> None:
    settings = PageSettings(checkpoint=tiny_checkpoint, rate_limit=1, rate_seconds=3600)
    with running_page(settings, tiny_pipeline) as page:
        visitor = Client(page.local_url, verbose=False)
        protect(visitor, ASTRONAUT)
        with pytest.raises(AppError, match="at most 1 photos per visitor in 60 minutes"):
            protect(visitor, ASTRONAUT)


@pytest.mark.slow
def test_page_stands_without_networks_and_its_log_says_why_there_are_none(
    tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No path of the server reaches visitors."""

    def load() -> Models:
        raise CheckpointError("`checkpoint` must be a folder, got /srv/secret.")

    caplog.set_level(logging.ERROR)
    settings = PageSettings(checkpoint=tiny_checkpoint)
    with (
        running_page(settings, load, gpu=pickling_gpu) as page,
        pytest.raises(AppError, match="networks of this page") as answer,
    ):
        protect(Client(page.local_url, verbose=False), ASTRONAUT)
    assert "/srv/secret" not in str(answer.value)
    assert "/srv/secret" in caplog.text
