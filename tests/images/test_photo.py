import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from small_pictures import (
    deep_png,
    encode,
    exif,
    picture,
    wide_gamut_profile,
)

from map_pipeline.images import (
    as_picture,
    load_image,
    load_photo,
    save_image,
    to_array,
)


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


def test_transparency_is_written_or_reported(tmp_path: Path) -> None:
    photo = load_photo(cutout())
    assert save_image(photo.picture, tmp_path / "out.png") == []
    with Image.open(tmp_path / "out.png") as written:
        np.testing.assert_array_equal(np.array(written), np.array(photo.cutout))
    assert len(save_image(photo.picture, tmp_path / "out.jpg")) == 1
    with Image.open(tmp_path / "out.jpg") as written:
        np.testing.assert_allclose(to_array(written).astype(int), to_array(photo.pixels), atol=12)
    assert save_image(photo.pixels, tmp_path / "plain.jpg") == []


DEEP, PROFILE = "8", "sRGB"


@pytest.mark.parametrize(
    ("content", "lost"),
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
def test_what_reading_lost_is_reported(content: bytes, lost: list[str]) -> None:
    for source in (content, Image.open(io.BytesIO(content))):
        notes = load_photo(source).notes
        assert len(notes) == len(lost)
        assert all(word in note for word, note in zip(lost, notes, strict=True))


def test_profile_is_named_in_one_line() -> None:
    content = encode(Image.fromarray(picture()), "PNG", icc_profile=wide_gamut_profile())
    [note] = load_photo(content).notes
    assert "'Wide <b> 1'" in note
    assert note.isprintable()
