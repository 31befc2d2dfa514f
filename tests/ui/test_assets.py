from pathlib import Path
from xml.etree import ElementTree

import pytest

import map_pipeline
from map_pipeline.config import EXPRESSIONS

ASSETS = Path(map_pipeline.__file__).parent / "ui" / "assets"
SVG = "{http://www.w3.org/2000/svg}"


def test_every_emotion_has_an_icon() -> None:
    icons = {path.stem for path in ASSETS.glob("emotion-*.svg")}
    assert icons == {f"emotion-{emotion}" for emotion in EXPRESSIONS}


@pytest.mark.parametrize("path", sorted(ASSETS.glob("*.svg")), ids=lambda path: path.stem)
def test_pictures_are_titled_and_self_contained(path: Path) -> None:
    picture = ElementTree.parse(path).getroot()
    assert picture.tag == f"{SVG}svg"
    assert picture.get("viewBox").startswith("0 0 ")
    assert picture.get("role") == "img"
    assert picture.find(f"{SVG}title").text
    # Nothing is fetched and nothing is run.
    assert not [one for one in picture.iter() if one.tag in (f"{SVG}script", f"{SVG}image")]
    links = [value for one in picture.iter() for name, value in one.items() if "href" in name]
    assert all(link.startswith("#") for link in links)
