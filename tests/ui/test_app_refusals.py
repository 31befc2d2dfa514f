"""What the page refuses over HTTP, in plain words, with small networks of random weights."""

from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from bad_pictures import bad_picture
from conftest import ASTRONAUT
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from serving import gpu_calls, protect

from map_pipeline.ui.settings import PageSettings


@pytest.fixture(scope="module")
def page_settings(tiny_checkpoint: Path) -> PageSettings:
    return PageSettings(checkpoint=tiny_checkpoint, concurrency=4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no face", "must show a face"),
        ("small face", "No face in this photo can be protected well"),
        ("text", "image must be"),
        ("truncated", "image must be"),
    ],
)
def test_bad_upload_is_refused_in_plain_words(
    client: Client, tmp_path: Path, name: str, message: str
) -> None:
    calls = len(gpu_calls)
    with pytest.raises(AppError, match=message) as error:
        protect(client, bad_picture(tmp_path, name))
    assert "Traceback" not in str(error.value)
    assert "/" not in str(error.value)  # no path of the server
    assert len(gpu_calls) == calls  # and no GPU time


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"emotion": "bored"}, "emotion must be one of"),
        ({"target": str(ASTRONAUT)}, "target must be one of"),  # no file of the server
        ({"faces": [7]}, "faces must be numbers from 1 to 1"),
        ({"faces": "all"}, "faces must be a list"),
        ({"mode": "slow"}, "mode must be one of"),
        ({"expression_strength": 1.5}, "expression_strength must be a number in"),
        ({"expression_strength": None}, "expression_strength must be a number in"),
        ({"seed": -1}, "seed must be a whole number in"),
        ({"random_seed": "false"}, "random_seed must be true or false, got 'false'"),
        ({"margin": "huge"}, "margin must be one of normal, high"),
        ({"steps": 10_000}, "steps must be a whole number in"),
        ({"detector": "insightface-download"}, "detector must be one of"),
        ({"emotions": {"1": "bored"}}, "emotions.1. must be one of"),
        ({"emotions": {"2": "sad"}}, "emotions must name faces from 1 to 1"),
        ({"emotions": ["sad"]}, "emotions must name an emotion by the number"),
        ({"action_units": {"frown": 1}}, "action_units must be among smile"),
        ({"action_units": {"smile": None}}, "must be in .-1, 1., got None"),
        ({"file_type": "webp"}, "file_type must be one of auto, png, jpeg"),
    ],
)
def test_bad_choice_is_told_in_plain_words(client: Client, change: dict, message: str) -> None:
    with pytest.raises(AppError, match=message):
        protect(client, ASTRONAUT, **change)


def test_checkpoint_without_an_editor_previews_nothing(client: Client) -> None:
    with pytest.raises(AppError, match="checkpoint must have a face mesh"):
        client.predict(photo=handle_file(ASTRONAUT), api_name="/preview")


def test_missing_photo_is_told_in_plain_words(client: Client) -> None:
    with pytest.raises(AppError, match="Choose a photo first"):
        client.predict(photo=None, api_name="/protect")
    with pytest.raises(AppError, match="Choose a photo first"):
        client.predict(photo=None, api_name="/preview")
    with pytest.raises(AppError, match="Choose two photos first"):
        client.predict(None, None, api_name="/compare")


@pytest.mark.parametrize(("name", "many"), [("detect", False), ("protect_batch", True)])
def test_files_of_the_server_are_no_uploads(
    demo: gr.Blocks, tmp_path: Path, name: str, many: bool
) -> None:
    private = tmp_path / "private.png"
    private.write_bytes(ASTRONAUT.read_bytes())
    stolen = {"path": str(private), "meta": {"_type": "gradio.FileData"}}
    data = {"photos": [stolen]} if many else {"photo": stolen}
    call = f"{demo.local_api_url}call"
    event = httpx.post(f"{call}/v2/{name}", json=data).json()["event_id"]
    answer = httpx.get(f"{call}/{name}/{event}", timeout=20).text
    assert "event: error" in answer
    assert "clear" not in answer
    assert "photo-1" not in answer


ADDRESS = "https://example.com/photo.png"


@pytest.mark.parametrize(
    "place", ["photo", "own_target", "emotion", "faces", "nested", "upper case", "other protocol"]
)
def test_pictures_named_by_address_are_not_fetched(
    demo: gr.Blocks, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    fetched = []

    async def fetch(url: str, *_: Any, **__: Any) -> str:
        fetched.append(url)
        return str(ASTRONAUT)

    for name in ("async_ssrf_protected_download", "async_ssrf_protected_get"):
        monkeypatch.setattr(f"gradio.processing_utils.{name}", fetch)
    address = {"upper case": ADDRESS.upper(), "other protocol": "ftp://example.com/a.png"}
    named = {"path": address.get(place, ADDRESS), "meta": {"_type": "gradio.FileData"}}
    data: dict[str, Any] = {"photo": None}
    data |= {
        "nested": {"photo": [{"image": named}]},
        "faces": {"faces": [named]},
        "own_target": {"own_target": named},
        "emotion": {"emotion": named},
    }.get(place, {"photo": named})
    call = f"{demo.local_api_url}call/v2/protect"
    event = httpx.post(call, json=data).json()["event_id"]
    answer = httpx.get(f"{demo.local_api_url}call/protect/{event}", timeout=20).text
    assert "event: error" in answer
    assert "upload it as a file" in answer
    assert fetched == []
