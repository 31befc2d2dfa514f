"""The first thing that people copy has to run."""

import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.mark.weights
def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    readme = (ROOT / "README.md").read_text()
    code = re.search(r"<!-- python-example -->\n```python\n(.*?)```", readme, re.DOTALL)[1]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    with Image.open("protected.png") as photo, Image.open("examples/astronaut.png") as original:
        assert photo.size == original.size
    assert "dlib ResNet-29" in capsys.readouterr().out


def test_links_lead_somewhere() -> None:
    for readme in (
        *ROOT.glob("*.md"),
        *ROOT.glob("map_pipeline/**/*.md"),
        *ROOT.glob(".github/*.md"),
    ):
        for link in re.findall(r"\]\(([^)#]+)\)", readme.read_text()):
            if not link.startswith("http"):
                assert (readme.parent / link).exists(), f"{readme.name}: {link}"
