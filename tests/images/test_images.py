import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from small_pictures import (
    GPS,
    ORIENTATION,
    encode,
    exif,
    linear_profile,
    picture,
    png_chunk,
    png_header,
)

from map_pipeline.errors import InvalidImageError
from map_pipeline.images import (
    MAX_PIXELS,
    MIN_SIDE,
    load_image,
    save_image,
    to_array,
    to_pil,
    to_tensor,
    uint8_tensor,
)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.fromarray(picture())
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for step in undo.get(orientation, []):
        stored = stored.transpose(step)
    loaded = load_image(encode(stored, "PNG", exif=exif(orientation)))
    np.testing.assert_array_equal(to_array(loaded), picture())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_metadata_goes_in_and_does_not_come_out(kind: str, suffix: str, tmp_path: Path) -> None:
    data = encode(Image.fromarray(picture()), kind, exif=exif(6))
    assert GPS in Image.open(io.BytesIO(data)).getexif()  # it did go in
    loaded = load_image(data)
    assert loaded.info == {}
    assert not loaded.getexif()
    save_image(loaded, tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as written:
        assert not written.getexif()
        assert not set(written.info) & {"exif", "xmp", "icc_profile", "comment"}
    assert b"Exif" not in (tmp_path / f"out{suffix}").read_bytes()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_formats_are_read_exactly(kind: str) -> None:
    pixels = picture()
    if kind == "GIF":  # 256 colours at most
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    np.testing.assert_array_equal(
        to_array(load_image(encode(Image.fromarray(pixels), kind))), pixels
    )


def test_cmyk() -> None:
    red = Image.new("CMYK", (64, 64), (0, 255, 255, 0))
    array = to_array(load_image(encode(red, "JPEG", quality=95)))
    assert array[..., 0].min() > 245
    assert array[..., 1:].max() < 10


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    ramp = np.linspace(0, 65535, 64).round().astype(np.uint16)
    array = to_array(load_image(encode(Image.fromarray(np.tile(ramp, (64, 1))), "PNG")))
    expected = np.tile(np.rint(ramp / 257), (64, 1))[..., None].repeat(3, 2)
    np.testing.assert_allclose(array, expected, atol=1)


def test_palette_and_bilevel() -> None:
    palette = Image.fromarray(picture()).quantize(16)
    expected = np.array(palette.convert("RGB"))
    np.testing.assert_array_equal(to_array(load_image(encode(palette, "PNG"))), expected)
    bilevel = Image.fromarray(picture()).convert("1")
    assert set(np.unique(to_array(load_image(encode(bilevel, "PNG"))))) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(mode: str) -> None:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 64, 32))
    if mode == "P":
        data = encode(image.quantize(2), "PNG")
        assert "transparency" in Image.open(io.BytesIO(data)).info
    else:
        data = encode(image.convert(mode), "PNG")
    array = to_array(load_image(data))
    assert array[:32].max() == 0
    assert array[32:].min() == 255


def test_colour_profiles_are_converted_to_srgb() -> None:
    photo = Image.fromarray(picture())
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = to_array(load_image(encode(photo, "PNG", icc_profile=srgb)))
    np.testing.assert_allclose(same.astype(int), picture(), atol=2)
    # A linear profile (gamma 1), made by hand as littleCMS offers none: mid grey is brighter.
    linear = to_array(load_image(encode(photo, "PNG", icc_profile=linear_profile(srgb))))
    assert linear[..., 1].mean() > same[..., 1].mean() + 20


def test_damaged_colour_profile_is_ignored() -> None:
    data = encode(Image.fromarray(picture()), "PNG", icc_profile=b"not a profile" * 20)
    np.testing.assert_array_equal(to_array(load_image(data)), picture())


def test_arrays_and_tensors_are_the_same_picture() -> None:
    pixels = picture()
    unit = pixels.astype(np.float32) / 255
    tensor = torch.from_numpy(unit).permute(2, 0, 1)
    rgba = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], -1)
    sources = [pixels, unit, unit.astype(np.float64), tensor, tensor[None], tensor.double(), rgba]
    for source in sources:
        np.testing.assert_array_equal(to_array(load_image(source)), pixels)
    grey = to_array(load_image(pixels[..., 0]))
    np.testing.assert_array_equal(grey, pixels[..., :1].repeat(3, 2))


def test_input_is_left_alone() -> None:
    image = Image.open(io.BytesIO(encode(Image.fromarray(picture()), "PNG", exif=exif(6))))
    pixels = picture()
    load_image(image)
    to_array(load_image(pixels))[:] = 0
    assert image.size == (64, 48)
    assert image.getexif()[ORIENTATION] == 6
    np.testing.assert_array_equal(pixels, picture())


def test_tensor_round_trip_is_exact() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    tensor = to_tensor(pixels)
    assert tensor.shape == (1, 3, 48, 64)
    assert tensor.dtype == torch.float32
    assert tensor.min() >= 0
    assert tensor.max() <= 1
    np.testing.assert_array_equal(to_array(to_pil(tensor)), pixels)
    assert torch.equal(to_tensor(Image.fromarray(pixels)), tensor)
    assert torch.equal(uint8_tensor(pixels).float() / 255, tensor)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (np.full((64, 64, 3), np.nan, np.float32), r"\[0,1\]"),
        (np.full((64, 64, 3), 200.0, np.float32), r"\[0,1\], got \[200, 200\]"),
        (np.full((64, 64, 3), -0.5, np.float32), r"\[0,1\]"),
        (torch.full((3, 64, 64), torch.inf), r"\[0,1\]"),
        (np.zeros((64, 64, 3), np.int64), "uint8 or float.*int64"),
        (np.zeros((64, 64, 3), bool), "uint8 or float.*bool"),
        (np.zeros((64, 64, 2), np.uint8), r"shape.*\[64, 64, 2\]"),
        (np.zeros((2, 64, 64, 3), np.uint8), r"shape.*\[2, 64, 64, 3\]"),
        (np.zeros(64, np.uint8), "shape"),
        (torch.zeros(2, 3, 64, 64), r"shape.*\[2, 3, 64, 64\]"),
        (np.zeros((MIN_SIDE - 1, 200, 3), np.uint8), "px a side.*200 x"),
        (np.zeros((0, 0, 3), np.uint8), "`image` must"),
        (Image.new("RGB", (10, 10)), "px a side.*10 x 10"),
        (b"", "got the upload, which is none of these"),
        (b"Dear diary", "got the upload, which is none of these"),
        (None, "NoneType"),
        (3, "int"),
        ([1, 2], "list"),
    ],
)
def test_bad_input_is_refused_in_one_line(source: Any, match: str) -> None:
    with pytest.raises(InvalidImageError, match=match) as caught:
        load_image(source)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("Dear diary")
    (tmp_path / "empty.jpg").write_bytes(b"")
    photo = encode(Image.fromarray(picture(400, 300)), "JPEG")
    (tmp_path / "truncated.jpg").write_bytes(photo[: len(photo) // 2])
    (tmp_path / "folder.png").mkdir()
    for name in ("text.png", "empty.jpg", "truncated.jpg", "folder.png", "missing.png"):
        with pytest.raises(InvalidImageError, match=name) as caught:
            load_image(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)  # an error may be shown on a public page


def test_odd_exif_does_not_spoil_a_photo() -> None:
    """A text where EXIF wants a number: Pillow reads the block but can't write it."""
    block = exif(6).tobytes()
    odd = block.replace(struct.pack(">HHI", 2, 5, 3), struct.pack(">HHI", 2, 2, 3))  # GPSLatitude
    assert odd != block
    data = encode(Image.fromarray(picture()), "PNG", exif=odd)
    assert load_image(data).size == (48, 64)


def test_damaged_pil_image_is_refused_too() -> None:
    """PIL reads pixels late, so an opened image may turn out to be damaged only here."""
    photo = encode(Image.fromarray(picture(400, 300)), "JPEG")
    with pytest.raises(InvalidImageError, match="whole"):
        load_image(Image.open(io.BytesIO(photo[: len(photo) // 2])))


@pytest.mark.parametrize("side", [11_000, 14_000, 20_000])
def test_giant_pictures_are_refused_by_their_header(side: int) -> None:
    """On both sides of the limits from which PIL warns and fails by itself; nothing is decoded."""
    assert side**2 > MAX_PIXELS
    with pytest.raises(InvalidImageError, match="at most"):
        load_image(png_header(side, side) + png_chunk(b"IDAT", b""))
