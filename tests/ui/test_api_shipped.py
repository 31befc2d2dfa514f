"""The endpoints for programs with the shipped networks; test_app.py looks at every detail."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from conftest import ASTRONAUT, VIDEO_CALL
from gradio_client import Client, handle_file
from PIL import Image
from serving import running_page

from map_pipeline import MAPPipeline
from map_pipeline.ui.settings import PageSettings

ROOT = Path(__file__).parents[2]
MARK = "<!-- api-example -->"  # README's example for programs stands behind it


@pytest.fixture(scope="module")
def demo(
    bundled_pipeline: MAPPipeline, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[gr.Blocks]:
    with running_page(PageSettings(), bundled_pipeline, tmp_path_factory.mktemp("cache")) as page:
        yield page


@pytest.mark.parametrize(
    ("choices", "edit"),
    [
        (
            {"emotion": "sad", "action_units": {"mouth_open": 1.0}},
            {"emotion": "sad", "action_units": {"mouth_open": 1.0}},
        ),
        ({"expression_of": handle_file(VIDEO_CALL)}, {"expression_of": VIDEO_CALL}),
    ],
)
def test_preview_is_the_edit_of_the_pipeline(
    client: Client, bundled_pipeline: MAPPipeline, choices: dict, edit: dict
) -> None:
    shown = client.predict(photo=handle_file(ASTRONAUT), **choices, api_name="/preview")
    [edited] = bundled_pipeline.edit_expression(ASTRONAUT, **edit)
    difference = np.abs(np.array(Image.open(shown)).astype(int) - np.array(edited))
    assert difference.mean() < 2  # a JPEG


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
