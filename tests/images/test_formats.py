"""Photos as phones, scanners and cut downloads leave them."""

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ASTRONAUT
from PIL import Image, ImageCms, ImageDraw
from small_pictures import encode, png_chunk

from map_pipeline.errors import InvalidImageError
from map_pipeline.images import heic, load_image


def photo() -> Image.Image:
    return Image.open(ASTRONAUT).convert("RGB").crop((96, 0, 352, 256))


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, int) - np.asarray(other, int)).mean())


# --- AVIF and HEIC ---


def test_avif_is_read_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = photo().transpose(Image.Transpose.ROTATE_90)
    assert distance(load_image(encode(photo(), "AVIF", quality=90)), photo()) < 3
    assert distance(load_image(encode(turned, "AVIF", quality=90, exif=exif)), photo()) < 3


def test_a_cut_avif_is_refused() -> None:
    content = encode(photo(), "AVIF")
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


ENCODINGS = [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}]


def flat_at_the_end() -> Image.Image:
    """A portrait with a plain edge below, as of a studio or a printed photo."""
    picture = photo()
    ImageDraw.Draw(picture).rectangle((0, 170, 256, 256), fill="white")
    return picture


@pytest.mark.parametrize("options", ENCODINGS)
@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("picture", [photo(), flat_at_the_end(), Image.new("RGB", (96, 64))])
def test_a_jpeg_without_its_end_is_read(picture: Image.Image, missing: int, options: dict) -> None:
    content = encode(picture, "JPEG", quality=90, **options)
    cut = content[:-missing]
    for source in (cut, Image.open(io.BytesIO(cut)), content[:-2] + bytes(4000)):
        notes: list[str] = []
        np.testing.assert_array_equal(load_image(source, notes), load_image(content))
        [note] = notes
        assert "end" in note


@pytest.mark.parametrize("options", ENCODINGS)
@pytest.mark.parametrize("picture", [photo(), flat_at_the_end()])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
def test_a_jpeg_that_lacks_rows_is_refused(
    picture: Image.Image, kept: float, options: dict
) -> None:
    content = encode(picture, "JPEG", quality=90, **options)
    cut = content[: int(len(content) * kept)]
    for source in (cut, Image.open(io.BytesIO(cut)), cut + bytes(4000)):
        with pytest.raises(InvalidImageError, match="must be a whole"):
            load_image(source)


def test_a_jpeg_that_lacks_its_last_scans_is_refused() -> None:
    """A progressive one is whole to look at after any of its scans, but coarse."""
    content = encode(photo(), "JPEG", quality=90, progressive=True)
    *_, last = (place for place in range(len(content)) if content.startswith(b"\xff\xda", place))
    with pytest.raises(InvalidImageError, match="must be a whole"):
        load_image(content[:last])


# --- what is lost is said ---


def test_nothing_is_said_of_an_ordinary_photo() -> None:
    notes: list[str] = []
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for options in ({}, {"icc_profile": srgb}):
        load_image(encode(photo(), "PNG", **options), notes)
    load_image(encode(photo().convert("RGBA"), "PNG"), notes)
    assert notes == []


def test_sixteen_bits_and_transparency_are_told() -> None:
    notes: list[str] = []
    deep = Image.fromarray(np.asarray(photo().convert("L"), np.uint16) * 257)
    load_image(encode(deep, "PNG"), notes)
    clear = photo().convert("RGBA")
    clear.putalpha(128)
    load_image(encode(clear, "PNG"), notes)
    assert len(notes) == 2
    assert "8 bits" in notes[0]
    assert "transparent" in notes[1]


@pytest.mark.parametrize(
    ("form", "options"),
    [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("AVIF", {}), ("TIFF", {})],
)
def test_further_frames_and_pages_are_told(form: str, options: dict) -> None:
    others = [photo().rotate(90), photo().rotate(180)]
    several = encode(photo(), form, save_all=True, append_images=others, **options)
    for source in (several, Image.open(io.BytesIO(several))):
        notes: list[str] = []
        assert distance(load_image(source, notes), photo()) < 8  # a GIF has few colours
        [note] = notes
        assert "one of several pictures" in note
    notes = []
    load_image(encode(photo(), form, **options), notes)
    assert notes == []


def test_a_burst_of_heic_is_told() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    burst, notes = pillow_heif.from_pillow(photo()), []
    burst.add_from_pillow(photo().rotate(90))
    buffer = io.BytesIO()
    burst.save(buffer, quality=90)
    assert distance(load_image(buffer.getvalue(), notes), photo()) < 3
    [note] = notes
    assert "one of several pictures" in note


def test_a_damaged_second_frame_takes_nothing_from_the_first() -> None:
    few = photo().quantize(16)
    several = encode(few, "GIF", save_all=True, append_images=[few.rotate(90)])
    second = several.index(b",", len(encode(few, "GIF")) - 2)  # begins a frame
    for kept in (5, 12, 100):
        cut = several[: second + kept]
        assert distance(load_image(cut), photo()) < 12


def test_a_second_picture_in_a_jpeg_is_told_but_not_a_thumbnail() -> None:
    both = encode(photo(), "MPO", save_all=True, append_images=[photo().resize((64, 64))])
    notes: list[str] = []
    assert distance(load_image(both, notes), photo()) < 5
    [note] = notes
    assert "further picture" in note
    second = both.index(b"MPF\0") + 4 + 66  # entries of 16 bytes begin at 50 and with their kind
    kind = struct.pack("<I", 0x010001)
    notes = []
    load_image(both[:second] + kind + both[second + 4 :], notes)
    assert notes == []


# --- colour spaces that are named without a profile ---

PRIMARIES = {
    "sRGB": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    "Adobe RGB": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),
    "Display P3": ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
    "BT.2020": ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046)),
}


def to_xyz(space: str) -> np.ndarray:
    """Linear RGB of a space to CIE XYZ `[3,3]`, from its primaries and D65."""
    colours = np.array([(x / y, 1, (1 - x - y) / y) for x, y in PRIMARIES[space]]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    return colours * np.linalg.solve(colours, white)


def as_seen(values: np.ndarray, space: str) -> np.ndarray:
    """8-bit values `[N,3]` of a space as unrounded sRGB values; beyond 0..255 out of its gamut."""
    share = values / 255
    curve = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    light = share ** (563 / 256) if space == "Adobe RGB" else curve
    linear = light @ (np.linalg.inv(to_xyz("sRGB")) @ to_xyz(space)).T
    steep = 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, steep)


def adobe_exif(index: str = "R03", space: int = 0xFFFF) -> bytes:
    """As cameras name Adobe RGB; index R98 is sRGB."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = space
    exif.get_ifd(0x8769)[0xA005] = {1: index}
    return exif.tobytes()


def colours() -> Image.Image:
    """Squares of 16 px in colours of which most aren't too strong for sRGB in any space."""
    values = np.random.default_rng(0).integers(90, 190, (8, 8, 3), np.uint8)
    return Image.fromarray(values.repeat(16, 0).repeat(16, 1))


def with_points(content: bytes, primaries: int, curve: int) -> bytes:
    """A PNG that names its colours by numbers of ITU-T H.273."""
    return content[:33] + png_chunk(b"cICP", bytes([primaries, curve, 0, 1])) + content[33:]


def renamed(content: bytes, primaries: int, curve: int) -> bytes:
    """An AVIF or HEIC with other numbers of H.273 than its encoder wrote."""
    before, box, behind = content.partition(b"colrnclx")
    assert box
    return before + box + struct.pack(">HH", primaries, curve) + behind[4:]


@pytest.mark.parametrize(
    ("content", "space"),
    [
        (encode(colours(), "JPEG", quality=100, subsampling=0, exif=adobe_exif()), "Adobe RGB"),
        (encode(colours(), "PNG", exif=adobe_exif()), "Adobe RGB"),
        (encode(colours(), "WEBP", lossless=True, exif=adobe_exif("", 2)), "Adobe RGB"),
        (with_points(encode(colours(), "PNG"), 12, 13), "Display P3"),
        (with_points(encode(colours(), "PNG"), 9, 1), "BT.2020"),
        (renamed(encode(colours(), "AVIF", quality=100), 12, 13), "Display P3"),
    ],
)
def test_a_named_colour_space_is_converted_and_told(content: bytes, space: str) -> None:
    notes: list[str] = []
    picture = load_image(content, notes)
    np.testing.assert_array_equal(load_image(Image.open(io.BytesIO(content)), notes), picture)
    found = np.asarray(picture)[8::16, 8::16].reshape(-1, 3)
    assert len(notes) == 2
    assert all(f"{space} became sRGB" in note for note in notes)
    stored = np.asarray(colours())[8::16, 8::16].reshape(-1, 3)
    expected = as_seen(stored, space)
    inside = ((expected > 60) & (expected < 252)).all(1)  # darker ones multiply errors of rounding
    assert inside.mean() > 0.7
    assert np.abs(found - expected)[inside].max() < 4
    assert np.abs(stored - expected)[inside].max() > 12  # as it looked before


@pytest.mark.parametrize(
    "content",
    [
        encode(colours(), "JPEG", exif=adobe_exif("R98", 1)),
        with_points(encode(colours(), "PNG"), 1, 13),
        renamed(encode(colours(), "AVIF"), 1, 1),
    ],
)
def test_names_of_srgb_change_nothing(content: bytes) -> None:
    notes: list[str] = []
    assert distance(load_image(content, notes), colours()) < 3
    assert notes == []


@pytest.mark.parametrize(
    "content",
    [
        encode(colours(), "JPEG", quality=100, subsampling=0, exif=adobe_exif("")),
        with_points(encode(colours(), "PNG"), 9, 16),
        with_points(encode(colours(), "PNG"), 22, 1),
    ],
)
def test_colours_that_are_not_converted_are_told(content: bytes) -> None:
    notes: list[str] = []
    assert distance(load_image(content, notes), colours()) < 2
    [note] = notes
    assert "taken for sRGB" in note


def test_a_profile_counts_for_more_than_a_name() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    notes: list[str] = []
    content = encode(colours(), "PNG", icc_profile=srgb, exif=adobe_exif())
    np.testing.assert_array_equal(load_image(with_points(content, 12, 13), notes), colours())
    assert notes == []
