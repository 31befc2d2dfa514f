import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from small_pictures import (
    encode,
    picture,
)

from map_pipeline.errors import InvalidImageError
from map_pipeline.files import write_atomically
from map_pipeline.images import (
    save_image,
    to_array,
    to_pil,
)


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
