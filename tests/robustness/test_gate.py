"""What the input gate does with each kind of file, and with those made to break it."""

import contextlib
import io
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import torch
from PIL import Image

from map_pipeline.errors import InvalidImageError
from map_pipeline.images import MAX_BYTES, MIN_SIDE, Rule, gate, load_image, rules_table, to_array

ORIENTATION = 0x0112
SLOW = "gif 1 million comments"


def pixels(source: Any) -> np.ndarray:
    """int `[H,W,3]`, so that differences don't wrap around."""
    return to_array(load_image(source)).astype(int)


@pytest.mark.parametrize("kind", hostile.samples())
def test_bytes_path_and_pil_image_are_read_alike(kind: str, tmp_path: Path) -> None:
    content = hostile.samples()[kind]
    (tmp_path / "photo").write_bytes(content)
    expected = pixels(content)
    for source in (tmp_path / "photo", str(tmp_path / "photo"), bytearray(content)):
        np.testing.assert_array_equal(pixels(source), expected)
    np.testing.assert_array_equal(pixels(Image.open(io.BytesIO(content))), expected)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "PNG"])
def test_orientation_is_applied_in_every_format(kind: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    upright = hostile.texture()
    content = hostile.encode(upright.transpose(Image.Transpose.ROTATE_90), kind, exif=exif)
    assert np.abs(pixels(content) - np.array(upright)).mean() < 12  # JPEG and WEBP lose a little


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "MPO"])
def test_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue")]
    content = hostile.encode(frames[0], kind, save_all=True, append_images=frames[1:])
    red, green, blue = pixels(content).mean((0, 1))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "1"])
def test_colour_profile_counts_in_every_mode(mode: str) -> None:
    """The profile of a camera with reversed green and red, so that its effect can't be missed."""
    profile = swapped_profile()
    image = hostile.texture().convert(mode)
    content = hostile.encode(image, "PNG", icc_profile=profile)
    as_rgb = hostile.encode(image.convert("RGB"), "PNG", icc_profile=profile)
    np.testing.assert_array_equal(pixels(content), pixels(as_rgb))
    if mode in ("P", "RGBA"):
        plain = hostile.encode(image.convert("RGB"), "PNG")
        assert np.abs(pixels(content) - pixels(plain)).mean() > 20


def swapped_profile() -> bytes:
    data = bytearray(hostile.srgb_profile())
    for at in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12):
        name = bytes(data[at : at + 4])
        data[at : at + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(name, name)
    return bytes(data)


def test_transparency_and_profile_together() -> None:
    """A transparent colour of an RGB picture is white, also when a profile changes the colours."""
    image = Image.new("RGB", (64, 64), (1, 2, 3))
    image.paste((200, 30, 30), (0, 0, 64, 32))
    profile = hostile.srgb_profile()
    content = hostile.encode(image, "PNG", transparency=(1, 2, 3), icc_profile=profile)
    assert pixels(content)[32:].min() == 255
    assert pixels(content)[:32, :, 1].max() < 40


def test_dark_sixteen_bit_picture_stays_dark() -> None:
    dark = np.full((64, 64), 200, np.uint16)  # of 65535
    assert pixels(hostile.encode(Image.fromarray(dark), "PNG")).max() <= 1


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_floating_point_pictures_keep_their_shades(top: float) -> None:
    ramp = np.tile(np.linspace(0, top, 64, dtype=np.float32), (64, 1))
    expected = np.tile(np.linspace(0, 255, 64), (64, 1))
    content = hostile.encode(Image.fromarray(ramp), "TIFF")
    np.testing.assert_allclose(pixels(content)[..., 0], expected, atol=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_number(value: float) -> None:
    broken = np.full((64, 64), 0.5, np.float32)
    broken[3, 3] = value
    for source in (broken, hostile.encode(Image.fromarray(broken), "TIFF")):
        with pytest.raises(InvalidImageError, match=r"nan|inf|no finite number"):
            load_image(source)


def test_lab_is_converted() -> None:
    difference = pixels(hostile.samples()["tiff lab"]) - np.array(hostile.texture())
    assert np.abs(difference).mean() < 3


def test_photo_with_a_video_behind_it() -> None:
    """Phones append seconds of video, in which anything that looks like a marker may occur."""
    np.testing.assert_array_equal(
        pixels(hostile.bombs()["jpeg then video"]),
        pixels(hostile.encode(hostile.texture(), "JPEG")),
    )


def test_slow_file_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MAX_SECONDS", 0.5)
    started = time.thread_time()
    with pytest.raises(InvalidImageError, match="computing time"):
        load_image(hostile.bombs()[SLOW])
    assert time.thread_time() - started < 5


@pytest.mark.parametrize("kind", ["jpeg 160,000 scans", "jpeg 49 MP, 1,000 scans"])
def test_jpeg_of_endless_scans_is_refused_before_it_is_decoded(kind: str) -> None:
    with pytest.raises(InvalidImageError, match="more than 100 scans"):
        load_image(hostile.bombs()[kind])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(hostile.bombs().keys() - {SLOW}))
def test_bombs_take_neither_time_nor_memory(kind: str) -> None:
    tracemalloc.start()
    started = time.thread_time()
    with contextlib.suppress(InvalidImageError):
        assert load_image(hostile.bombs()[kind]).mode == "RGB"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.thread_time() - started < 20  # tracing makes it several times slower
    assert peak < 400e6  # the pixels of the largest picture that is accepted, and a copy


def test_special_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "to-pipe.png").symlink_to(tmp_path / "pipe.png")
    (tmp_path / "to-zero.png").symlink_to("/dev/zero")
    for path in tmp_path.iterdir():
        with pytest.raises(InvalidImageError, match="existing file.*" + path.name) as caught:
            load_image(path)
        assert str(tmp_path) not in str(caught.value)


def test_link_to_a_photo_is_followed(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(hostile.samples()["png"])
    (tmp_path / "link.png").symlink_to("photo")
    np.testing.assert_array_equal(pixels(tmp_path / "link.png"), pixels(tmp_path / "photo"))


@pytest.mark.parametrize("name", hostile.NAMES)
def test_names_that_are_no_photo(name: str) -> None:
    with pytest.raises(InvalidImageError) as caught:
        load_image(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_file_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", 10**12)  # a terabyte of nothing
    for source in (tmp_path / "huge.png", bytes(MAX_BYTES + 1)):
        with pytest.raises(InvalidImageError, match="at most 100 MB"):
            load_image(source)


def test_array_that_claims_more_than_the_memory_holds() -> None:
    claim = np.broadcast_to(np.zeros(3, np.uint8), (10**6, 10**6, 3))
    with pytest.raises(InvalidImageError, match="at most 120,000,000 px"):
        load_image(claim)


BREACHES = {
    Rule.KIND: 3,
    Rule.FILE: "no/such/file.png",
    Rule.BYTES: bytes(MAX_BYTES + 1),
    Rule.FORMAT: hostile.SVG,
    Rule.SIZE: Image.new("RGB", (MIN_SIDE - 1, 100)),
    Rule.TIME: hostile.bombs()["tiff tag bomb"],
    Rule.SHAPE: torch.zeros(64, 64, 3),
    Rule.TYPE: torch.zeros(3, 64, 64).to_sparse(),
    Rule.RANGE: torch.full((3, 64, 64), 2.0),
}


@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.name)
def test_every_rule_is_kept_and_stands_in_the_table(rule: Rule) -> None:
    with pytest.raises(InvalidImageError) as caught:
        load_image(BREACHES[rule])
    assert str(caught.value).startswith(f"{rule}, got ")
    assert f"| {rule} |" in rules_table()
