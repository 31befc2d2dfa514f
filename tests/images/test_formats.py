"""Photos as phones, scanners and cut downloads leave them."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ASTRONAUT
from PIL import Image, ImageCms

from map_pipeline.errors import InvalidImageError
from map_pipeline.images import heic, load_image


def photo() -> Image.Image:
    return Image.open(ASTRONAUT).convert("RGB").crop((96, 0, 352, 256))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, int) - np.asarray(other, int)).mean())


# --- AVIF and HEIC ---


def test_avif_is_read_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = photo().transpose(Image.Transpose.ROTATE_90)
    assert distance(load_image(encoded(photo(), "AVIF", quality=90)), photo()) < 3
    assert distance(load_image(encoded(turned, "AVIF", quality=90, exif=exif)), photo()) < 3


def test_a_cut_avif_is_refused() -> None:
    content = encoded(photo(), "AVIF")
    with pytest.raises(InvalidImageError, match="must be a whole"):
        load_image(content[: len(content) // 2])


@pytest.fixture
def iphone(tmp_path: Path) -> Path:
    """A HEIC file that is called a JPEG, as some programs do."""
    pillow_heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "IMG_0001.jpg"
    pillow_heif.from_pillow(photo()).save(path, quality=90)
    return path


def test_heic_is_read_with_the_extra(iphone: Path) -> None:
    assert distance(load_image(iphone), photo()) < 3


def test_heic_without_the_extra_comes_with_advice(
    iphone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heic.can_read_heic.cache_clear()
    try:
        with pytest.raises(InvalidImageError, match=r"IMG_0001\.jpg.* HEIC: save it as JPEG"):
            load_image(iphone)
    finally:
        heic.can_read_heic.cache_clear()


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", True),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", True),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", False),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf", False),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp41isom", False),
        (b"", False),
        (b"\xff\xd8\xff\xe0", False),
    ],
)
def test_heic_is_told_by_its_brand(head: bytes, expected: bool) -> None:
    assert heic.is_heic(head) is expected


# --- JPEG files that end early ---


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_end_is_read(options: dict, missing: int) -> None:
    content = encoded(photo(), "JPEG", quality=90, **options)
    notes: list[str] = []
    found = load_image(content[:-missing], notes)
    np.testing.assert_array_equal(found, load_image(content))
    [note] = notes
    assert "end" in note


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
def test_a_jpeg_that_lacks_rows_is_refused(options: dict, kept: float) -> None:
    content = encoded(photo(), "JPEG", quality=90, **options)
    with pytest.raises(InvalidImageError, match="must be a whole"):
        load_image(content[: int(len(content) * kept)])


# --- what is lost is said ---


def test_nothing_is_said_of_an_ordinary_photo() -> None:
    notes: list[str] = []
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for options in ({}, {"icc_profile": srgb}):
        load_image(encoded(photo(), "PNG", **options), notes)
    load_image(encoded(photo().convert("RGBA"), "PNG"), notes)
    assert notes == []


def test_sixteen_bits_and_transparency_are_told() -> None:
    notes: list[str] = []
    deep = Image.fromarray(np.asarray(photo().convert("L"), np.uint16) * 257)
    load_image(encoded(deep, "PNG"), notes)
    clear = photo().convert("RGBA")
    clear.putalpha(128)
    load_image(encoded(clear, "PNG"), notes)
    assert len(notes) == 2
    assert "8 bits" in notes[0]
    assert "transparent" in notes[1]
