import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from map_pipeline.errors import InvalidImageError
from map_pipeline.files import write_atomically
from map_pipeline.images import (
    MAX_PIXELS,
    MIN_SIDE,
    as_picture,
    load_image,
    load_photo,
    save_image,
    to_array,
    to_pil,
    to_tensor,
    uint8_tensor,
)

ORIENTATION, GPS = 0x0112, 0x8825


def picture(width: int = 64, height: int = 48) -> np.ndarray:
    """A smooth uint8 RGB picture `[H,W,3]` whose corners all differ."""
    x, y = np.linspace(0, 200, width)[None, :], np.linspace(0, 150, height)[:, None]
    return np.stack([x + 0 * y, y + 0 * x, (x + y) / 2], -1).round().astype(np.uint8)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int = 1) -> Image.Exif:
    block = Image.Exif()
    block[ORIENTATION] = orientation
    block.get_ifd(GPS).update({1: "N", 2: (52.0, 30.0, 0.0), 3: "E", 4: (13.0, 20.0, 0.0)})
    return block


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG that claims a size, without any pixel."""
    return b"\x89PNG\r\n\x1a\n" + png_chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    )


def png_chunk(kind: bytes, body: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum


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


def test_save_image_drops_what_a_pil_image_still_carries(tmp_path: Path) -> None:
    """Somebody may pass an image that never went through `load_image`."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Jane Doe")
    image = Image.open(io.BytesIO(encode(Image.fromarray(picture()), "PNG", pnginfo=info)))
    assert image.info["Author"] == "Jane Doe"
    image.getexif()[0x010F] = "a camera"
    for name in ("out.png", "out.jpg"):
        save_image(image, tmp_path / name)
        data = (tmp_path / name).read_bytes()
        assert b"Jane" not in data
        assert b"camera" not in data


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("as_path", [True, False])
def test_lossless_formats_are_read_exactly(kind: str, as_path: bool, tmp_path: Path) -> None:
    pixels = picture()
    if kind == "GIF":  # 256 colours at most
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    data = encode(Image.fromarray(pixels), kind)
    (tmp_path / "picture.dat").write_bytes(data)  # the content tells the format, not the name
    source = tmp_path / "picture.dat" if as_path else data
    np.testing.assert_array_equal(to_array(load_image(source)), pixels)


def test_text_paths_are_accepted(tmp_path: Path) -> None:
    save_image(Image.fromarray(picture()), tmp_path / "a.png")
    np.testing.assert_array_equal(to_array(load_image(str(tmp_path / "a.png"))), picture())


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


def linear_profile(srgb: bytes) -> bytes:
    """The sRGB profile with its tone curves replaced by the identity, in place."""
    data = bytearray(srgb)
    for index in range(struct.unpack_from(">I", data, 128)[0]):
        tag, offset, size = struct.unpack_from(">4sII", data, 132 + 12 * index)
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            assert size >= 12
            data[offset : offset + 12] = b"curv" + bytes(8)  # count 0 is the identity
    return bytes(data)


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
def test_bad_input_is_told_in_one_line(source: Any, match: str) -> None:
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


@pytest.mark.filterwarnings("ignore")  # Pillow comments on every oddity of a TIFF
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_damaged_files_never_raise_anything_else(kind: str) -> None:
    data = encode(Image.fromarray(picture()), kind)
    random = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        for position in random.integers(0, min(len(data), 300), 4):
            damaged[position] = random.integers(256)
        cut = random.integers(1, len(data)) if random.random() < 0.5 else len(data)
        try:
            image = load_image(bytes(damaged[:cut]))
        except InvalidImageError:
            continue
        assert image.mode == "RGB"


def test_damaged_pil_image_is_told_too() -> None:
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


def test_giant_picture_that_compresses_well(tmp_path: Path) -> None:
    """A whole file: 1.2 GB of pixels in about a megabyte."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * 20_000) * 100
    body = b"".join(packer.compress(row) for _ in range(4)) + packer.flush()
    data = png_header(20_000, 20_000) + png_chunk(b"IDAT", body)
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(InvalidImageError, match="at most"):
        load_image(tmp_path / "bomb.png")


def test_png_is_exact_and_jpeg_is_quality_95(tmp_path: Path) -> None:
    image = Image.fromarray(picture())
    save_image(image, tmp_path / "out.PNG")
    with Image.open(tmp_path / "out.PNG") as written:
        assert written.format == "PNG"
        np.testing.assert_array_equal(to_array(written), picture())
    for name in ("out.jpg", "out.jpeg"):
        save_image(image, tmp_path / name)
        with Image.open(tmp_path / name) as written:
            expected = Image.open(io.BytesIO(encode(image, "JPEG", quality=95)))
            assert written.format == "JPEG"
            assert written.quantization == expected.quantization
            np.testing.assert_allclose(to_array(written).astype(int), picture(), atol=4)


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidImageError, match=r"\.png, \.jpg or \.jpeg, got 'out.webp'"):
        save_image(Image.fromarray(picture()), tmp_path / "out.webp")
    assert not list(tmp_path.iterdir())


def test_folders_are_made(tmp_path: Path) -> None:
    save_image(Image.fromarray(picture()), tmp_path / "new" / "folder" / "out.png")
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["out.png"]


def test_failed_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(OSError):  # noqa: PT011 (which one depends on the system)
        save_image(Image.fromarray(picture()), tmp_path / "a file" / "out.png")

    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OSError):  # noqa: PT011
        save_image(Image.fromarray(picture()), tmp_path / "taken.png")

    def full_disk(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    (tmp_path / "old.png").write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    for name in ("new.png", "old.png"):
        with pytest.raises(OSError, match="No space"):
            save_image(Image.fromarray(picture()), tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["a file", "old.png", "taken.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"  # the file before stays whole


def test_a_name_of_the_longest_kind_is_written(tmp_path: Path) -> None:
    name = f"{'x' * 251}.png"  # 255 bytes
    save_image(to_pil(picture()), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_write_atomically_replaces(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write_atomically(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert os.listdir(tmp_path) == ["file"]


def cutout() -> Image.Image:
    """Mode RGBA: opaque on the left, then half transparent, then nothing, over a smooth picture."""
    alpha = np.repeat(np.array([255, 128, 0], np.uint8), (22, 21, 21))
    return Image.fromarray(np.dstack([picture(), np.tile(alpha, (48, 1))]))


def test_photo_keeps_its_alpha_and_hides_what_nobody_sees() -> None:
    photo = load_photo(encode(cutout(), "PNG"))
    kept, given = np.array(photo.cutout), np.array(cutout())
    np.testing.assert_array_equal(kept[:, :43], given[:, :43])
    np.testing.assert_array_equal(kept[:, 43:], np.array([255, 255, 255, 0]) + 0 * kept[:, 43:])
    half = np.rint(given[:, 22:43, :3] * (128 / 255) + 127)
    np.testing.assert_allclose(to_array(photo.pixels)[:, 22:43], half, atol=1)
    assert load_photo(encode(cutout().convert("RGB").convert("RGBA"), "PNG")).cutout is None


@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_alpha_turns_with_its_photo(orientation: int) -> None:
    photo = load_photo(encode(cutout(), "PNG", exif=exif(orientation)))
    plain = load_image(encode(cutout().getchannel("A"), "PNG", exif=exif(orientation)))
    np.testing.assert_array_equal(np.array(photo.cutout)[..., 3], to_array(plain)[..., 0])


def test_change_to_a_transparent_photo_looks_the_same_on_white() -> None:
    photo = load_photo(cutout())
    before = to_array(photo.pixels)
    changed = before.copy()
    changed[10:20, 10:60] = changed[10:20, 10:60] // 2 + 100  # within what half an alpha can show
    result = as_picture(changed, before, photo.cutout)
    np.testing.assert_array_equal(np.array(result)[..., 3], np.array(photo.cutout)[..., 3])
    np.testing.assert_array_equal(np.array(result)[20:], np.array(photo.cutout)[20:])
    np.testing.assert_allclose(to_array(result)[:, :43].astype(int), changed[:, :43], atol=1)
    assert to_array(result)[:, 43:].min() == 255


def test_transparency_is_written_or_told(tmp_path: Path) -> None:
    photo = load_photo(cutout())
    assert save_image(photo.picture, tmp_path / "out.png") == []
    with Image.open(tmp_path / "out.png") as written:
        np.testing.assert_array_equal(np.array(written), np.array(photo.cutout))
    assert len(save_image(photo.picture, tmp_path / "out.jpg")) == 1
    with Image.open(tmp_path / "out.jpg") as written:
        np.testing.assert_allclose(to_array(written).astype(int), to_array(photo.pixels), atol=12)
    assert save_image(photo.pixels, tmp_path / "plain.jpg") == []


def wide_gamut_profile() -> bytes:
    """The sRGB profile with the primaries of Display P3, and a name of the same length."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {
        b"rXYZ": (0.51512, 0.24120, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.15710, 0.06657, 0.78407),
    }
    for index in range(struct.unpack_from(">I", data, 128)[0]):
        tag, offset, _ = struct.unpack_from(">4sII", data, 132 + 12 * index)
        if tag in primaries:
            values = [round(value * 65536) for value in primaries[tag]]
            struct.pack_into(">3i", data, offset + 8, *values)
    return bytes(data).replace(
        "sRGB built-in".encode("utf-16-be"), "Wide <b> \n 1 ".encode("utf-16-be")
    )


def deep_png() -> bytes:
    """A colour PNG of 16 bits, which Pillow can't write."""
    rows = np.zeros((48, 1 + 64 * 6), np.uint8)
    rows[:, 1:] = np.random.default_rng(0).integers(0, 256, (48, 384))
    header = struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*one) for one in chunks)


DEEP, PROFILE = "8", "sRGB"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (deep_png(), [DEEP]),
        (encode(Image.fromarray(np.full((48, 64), 40_000, np.uint16)), "PNG"), [DEEP]),
        (encode(Image.fromarray(np.full((48, 64), 0.5, np.float32)), "TIFF"), [DEEP]),
        (encode(Image.fromarray(picture()), "JPEG", icc_profile=wide_gamut_profile()), [PROFILE]),
        (encode(Image.fromarray(picture()), "TIFF", icc_profile=wide_gamut_profile()), [PROFILE]),
        (encode(Image.new("CMYK", (64, 48), (0, 9, 9, 0)), "JPEG"), ["CMYK"]),
        (encode(Image.fromarray(picture()), "PNG", icc_profile=b"no profile" * 20), ["ignored"]),
        (encode(Image.fromarray(picture()), "PNG"), []),
        (encode(Image.fromarray(picture()).convert("1"), "PNG"), []),
        (encode(Image.fromarray(picture()), "BMP"), []),
        (
            encode(
                Image.fromarray(picture()),
                "PNG",
                icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
            ),
            [],
        ),
    ],
)  # fmt: skip
def test_what_reading_lost_is_told(content: bytes, told: list[str]) -> None:
    for source in (content, Image.open(io.BytesIO(content))):
        notes = load_photo(source).notes
        assert len(notes) == len(told)
        assert all(word in note for word, note in zip(told, notes, strict=True))


def test_profile_is_named_in_one_line() -> None:
    content = encode(Image.fromarray(picture()), "PNG", icc_profile=wide_gamut_profile())
    [note] = load_photo(content).notes
    assert "'Wide <b> 1'" in note
    assert note.isprintable()
