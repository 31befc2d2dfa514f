"""The endpoints for programs with the shipped networks; test_app.py looks at every detail."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from PIL import Image

import app
from map_pipeline import MAPPipeline
from map_pipeline.ui.models import prepare_models
from map_pipeline.ui.settings import PageSettings

ROOT = Path(__file__).parents[2]
ASTRONAUT, VIDEO_CALL = ROOT / "examples" / "astronaut.png", ROOT / "examples" / "video-call.png"
MARK = "<!-- api-example -->"  # README's example for programs stands behind it


@pytest.fixture(scope="module")
def demo(
    bundled_pipeline: MAPPipeline, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[gr.Blocks]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        page = app.start(
            PageSettings(),
            lambda: prepare_models(bundled_pipeline, "cpu"),
            prevent_thread_lock=True,
            quiet=True,
            server_name="127.0.0.1",
        )
        yield page
        page.close()


@pytest.fixture(scope="module")
def client(demo: gr.Blocks, tmp_path_factory: pytest.TempPathFactory) -> Client:
    downloads = str(tmp_path_factory.mktemp("downloads"))
    return Client(demo.local_url, verbose=False, download_files=downloads, analytics_enabled=False)


def test_protect_detect_compare_and_targets(client: Client, bundled_pipeline: MAPPipeline) -> None:
    """A program that protects one of several faces and looks whether it worked."""
    faces = client.predict(handle_file(VIDEO_CALL), api_name="/detect")
    assert [one["number"] for one in faces] == [1, 2, 3, 4]
    targets = client.predict(api_name="/targets")
    assert [one["name"] for one in targets] == bundled_pipeline.targets.names
    units = {"mouth_open": 1.0}
    preview = client.predict(
        photo=handle_file(ASTRONAUT), emotion="sad", action_units=units, api_name="/preview"
    )
    [edited] = bundled_pipeline.edit_expression(ASTRONAUT, "sad", action_units=units)
    with Image.open(preview) as shown:
        difference = np.abs(np.array(shown).astype(int) - np.array(edited))
        assert difference.mean() < 2  # a JPEG
    copied = client.predict(
        photo=handle_file(ASTRONAUT), expression_of=handle_file(VIDEO_CALL), api_name="/preview"
    )
    [edited] = bundled_pipeline.edit_expression(ASTRONAUT, expression_of=VIDEO_CALL)
    with Image.open(copied) as shown:
        difference = np.abs(np.array(shown).astype(int) - np.array(edited))
        assert difference.mean() < 2
    photo, verdict, [report], seed = client.predict(
        photo=handle_file(ASTRONAUT),
        emotion="sad",
        target=targets[3]["name"],
        steps=1,
        api_name="/protect",
    )
    assert "of 4 recognition programs still find" in verdict
    assert report["target"] == targets[3]["name"]
    alone = bundled_pipeline(
        ASTRONAUT,
        emotion="sad",
        target=targets[3]["name"],
        mode="fast",
        margin="normal",
        refine_steps=1,
        generator=torch.Generator().manual_seed(seed),
    )
    np.testing.assert_array_equal(np.array(Image.open(photo)), np.array(alone.images[0]))
    compared = client.predict(handle_file(ASTRONAUT), handle_file(photo), api_name="/compare")
    [pair] = compared["pairs"]
    measured = {one["name"]: one["source_after"] for one in report["recognisers"]}
    assert {one["name"]: one["similarity"] for one in pair["recognisers"]} == pytest.approx(
        measured, abs=0.02
    )


def test_example_of_the_readme_runs(demo: gr.Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, behind = (ROOT / "map_pipeline" / "ui" / "README.md").read_text().partition(MARK)
    assert behind, f"the README of the page has no {MARK}"
    code = re.search(r"```python\n(.*?)```", behind, re.DOTALL)[1]
    monkeypatch.chdir(ROOT)
    answer: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:7860", demo.local_url), answer)
    assert Image.open(answer["photo"]).size == Image.open(VIDEO_CALL).size
    assert "recognition programs still find" in answer["verdict"]
    assert [one["emotion"] for one in answer["reports"]] == ["happy", "neutral"]
    assert {one["name"] for one in answer["answers"]} == {
        one["name"] for one in answer["reports"][0]["recognisers"]
    }
    assert all(one["protected"] for one in answer["outcomes"])
    with zipfile.ZipFile(answer["archive"]) as archive:
        assert {one["file"] for one in answer["outcomes"]} < set(archive.namelist())
