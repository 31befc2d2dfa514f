"""A folder of 200 files as years of phones, cameras, scanners and broken downloads leave it."""

import hashlib
import json
import os
from pathlib import Path

import hostile
import numpy as np
import pytest
from hostile import encode
from PIL import Image, ImageCms, ImageDraw

from map_pipeline.cli.main import main
from map_pipeline.images.heic import can_read_heic

FILES = 200
# What becomes of a file.
DONE, FAILED, SKIPPED, IGNORED = "done", "failed", "skipped", "ignored"

NOTES = {
    "scans/cmyk.jpg": "CMYK",
    "scans/16 bit.png": "8 bits",
    "scans/other profile.png": "ignored",
    "scans/pages.tif": "one of several",
    "web/moving.gif": "one of several",
    "web/moving.png": "one of several",
    "two pictures.jpg": "further picture",
    "gamut/adobe.jpg": "Adobe RGB became sRGB",
    "gamut/p3.png": "Display P3 became sRGB",
    "no end/plain.jpg": "end marker",
    "no end/flat.jpg": "end marker",
}
"""What the report says was lost; of all other photos nothing."""


def turned(photo: Image.Image, orientation: int) -> bytes:
    """A JPEG that a phone held sideways wrote."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    return encode(photo.transpose(back), "JPEG", exif=exif)


def beside(photo: Image.Image, other: Image.Image) -> Image.Image:
    both = Image.new("RGB", (photo.width + other.width, photo.height))
    both.paste(photo, (0, 0))
    both.paste(other, (photo.width, 0))
    return both


def flat_below(photo: Image.Image) -> Image.Image:
    copy = photo.copy()
    ImageDraw.Draw(copy).rectangle((0, photo.height - 40, *photo.size), fill="white")
    return copy


def deep_portrait(photo: Image.Image) -> bytes:
    return encode(Image.fromarray(np.asarray(photo.convert("L"), np.uint16) * 257), "PNG")


def toned(photo: Image.Image) -> Image.Image:
    """A black-and-white photo with a tint of 4 %."""
    grey = np.asarray(photo.convert("L"), float)[..., None]
    return Image.fromarray((grey * [1, 0.98, 0.94]).astype(np.uint8))


def other_profile() -> bytes:
    """A profile of CIE Lab in a file of RGB, as bad scanners write."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def people() -> dict[str, bytes]:
    """Files that show somebody and are protected."""
    photo = hostile.portrait()
    sideways = photo.rotate(90)
    jpeg = encode(photo, "JPEG", quality=92)
    found = {
        "me.jpg": jpeg,
        "me.png": encode(photo, "PNG"),
        "me.jpg.png": encode(photo, "PNG"),
        "ME.webp": encode(photo, "WEBP"),
        "IMG_0001.JPG": encode(photo, "JPEG", exif=hostile.exif_block()),
        "IMG_0002.jfif": jpeg,
        "IMG_0003": jpeg,
        "IMG_0004.png": jpeg,  # named wrongly
        "IMG_0005.txt": jpeg,
        "turned/6.jpg": turned(photo, 6),
        "turned/3.jpeg": turned(photo, 3),
        "turned/lying.png": encode(sideways, "PNG"),
        "turned/upside down.png": encode(photo.rotate(180), "PNG"),
        "turned/beside.png": encode(beside(photo, sideways), "PNG"),
        "cutout.png": encode(hostile.cutout(photo), "PNG"),
        "scans/grey.tif": encode(photo.convert("L"), "TIFF"),
        "scans/toned.tiff": encode(toned(photo), "TIFF", compression="tiff_lzw"),
        "scans/cmyk.jpg": encode(photo.convert("CMYK"), "JPEG"),
        "scans/16 bit.png": deep_portrait(photo),
        "scans/other profile.png": encode(photo, "PNG", icc_profile=other_profile()),
        "scans/pages.tif": encode(photo, "TIFF", save_all=True, append_images=[sideways]),
        "gamut/adobe.jpg": encode(photo, "JPEG", exif=hostile.adobe_rgb()),
        "gamut/p3.png": hostile.display_p3(encode(photo, "PNG")),
        "web/a.avif": encode(photo, "AVIF"),
        "web/palette.gif": encode(photo.quantize(64), "GIF"),
        "web/moving.gif": encode(photo, "GIF", save_all=True, append_images=[sideways]),
        "web/moving.png": encode(photo, "PNG", save_all=True, append_images=[sideways]),
        "web/old.bmp": encode(photo, "BMP"),
        "no end/plain.jpg": jpeg[:-2],
        "no end/flat.jpg": encode(flat_below(photo), "JPEG")[:-2],
        "two pictures.jpg": encode(photo, "MPO", save_all=True, append_images=[sideways]),
        "group.jpg": encode(beside(photo, photo.rotate(5)), "JPEG"),
        "Jürgen, 3 Jahre 👶.jpg": jpeg,
        "-rf.jpg": jpeg,
        f"{'long name ' * 24}.jpg": jpeg,
        "2019/05/holiday.jpg": jpeg,
        "2019/06/holiday.jpg": jpeg,
    }
    for number in range(1, 9):
        small = photo.crop((0, 0, 192 - number, 192))
        found[f"DCIM/100APPLE/IMG_{number:04}.JPG"] = encode(small, "JPEG")
    if can_read_heic():
        heic = hostile.heic(photo)["heic"]
        found |= {"DCIM/100APPLE/IMG_0101.HEIC": heic, "DCIM/100APPLE/IMG_0102.JPG": heic}
    return found


def without_people() -> dict[str, bytes]:
    """Files that are taken for photos and fail, each with a line that says why."""
    jpeg = encode(hostile.portrait(), "JPEG")
    found = {
        "broken/half.jpg": jpeg[: len(jpeg) // 2],
        "broken/rows missing.jpg": jpeg[: len(jpeg) * 9 // 10],
        "broken/half, flat.jpg": encode(flat_below(hostile.portrait()), "JPEG")[:-900],
        "broken/broken off.jpg": jpeg[: len(jpeg) // 2].ljust(len(jpeg), b"\0"),
        "broken/half.png": encode(hostile.portrait(), "PNG")[:9000],
        "broken/empty.jpg": b"",
        "broken/zeros.png": bytes(5000),
        "broken/text.jpg": b"Dear diary",
        "broken/page.png": hostile.HTML,
        "broken/drawing.jpg": hostile.SVG,
        "broken/heic.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
        "broken/heic.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
        "broken/too large.png": hostile.bombs()["png claims 2^31"],
        "broken/121 MP.png": encode(Image.new("1", (11_000, 11_001)), "PNG"),
        "broken/bomb.jpg": hostile.bombs()["jpeg 49 MP, 1,000 scans"],
        "small/icon.png": encode(Image.new("RGB", (16, 16)), "PNG"),
        "small/line.gif": encode(Image.new("L", (1000, 1)), "GIF"),
        "50 MP/wall.jpg": encode(Image.new("L", (8688, 5792), 90), "JPEG"),
    }
    for name, content in hostile.samples().items():  # textures of 64 x 48 px
        found[f"textures/{name}.{name.split()[0]}"] = content
    return found


def others() -> dict[str, bytes]:
    """Files that are no photos and are listed as skipped."""
    found = {
        "notes.txt": b"Dear diary",
        "Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(500),
        "desktop.ini": b"[ViewState]",
        "DCIM/100APPLE/IMG_0001.MOV": b"\0\0\0\x14ftypqt  " + bytes(100),
        "DCIM/100APPLE/IMG_0001.AAE": b"<?xml version='1.0'?>",
        "film.mp4": b"\0\0\0\x18ftypmp42" + bytes(100),
        "raw/DSC01.ARW": b"II*\0" + bytes(30),
        "raw/DSC01.xmp": b"<x:xmpmeta/>",
        "letter.pdf": b"%PDF-1.7\n",
        "photos.zip": b"PK\3\4" + bytes(100),
        "drawing.svg": hostile.SVG,
        "page.html": hostile.HTML,
        "empty": b"",
    }
    for number in range(12):
        found[f"sidecars/IMG_{number:04}.json"] = b"{}"
    return found


def hidden() -> dict[str, bytes]:
    """What systems leave behind, and nobody wants to read about."""
    found = {".DS_Store": bytes(100), ".hidden.jpg": b"", ".thumbnails/a.jpg": b""}
    for number in range(1, 9):
        found[f"DCIM/100APPLE/._IMG_{number:04}.JPG"] = b"\0\5\x16\7" + bytes(60)
    return found


def folder_of_200() -> dict[str, dict[str, bytes]]:
    """What becomes of a file -> name -> content."""
    files = {DONE: people(), FAILED: without_people(), SKIPPED: others(), IGNORED: hidden()}
    for number in range(FILES - sum(map(len, files.values()))):
        wall = Image.new("RGB", (48, 48), (number, 90, 120))
        files[FAILED][f"walls/{number:03}.jpg"] = encode(wall, "JPEG")
    assert sum(map(len, files.values())) == FILES
    return files


def digests(folder: Path) -> dict[str, str]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(one): hashlib.sha256(one.read_bytes()).hexdigest() for one in found}


def reasons_by_name(said: list[str]) -> dict[str, str]:
    """Name -> reason, of the lines at the end of a run; each file has one."""
    lines = [line.removeprefix("map-protect: ") for line in said if line.startswith("map-protect")]
    reasons = dict(line.split(": ", 1) for line in lines)
    assert len(reasons) == len(lines)
    return reasons


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_folder_of_200_files_is_run_to_its_end(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    photos, out, report = tmp_path / "photos", tmp_path / "photos" / "out", tmp_path / "r.json"
    files = folder_of_200()
    for name, content in (one for some in files.values() for one in some.items()):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(content)
    (photos / "folder.jpg").mkdir()
    (photos / "gone.jpg").symlink_to("nowhere.jpg")
    (photos / "loop").symlink_to(photos)
    os.mkfifo(photos / "pipe.jpg")
    skipped = {*files[SKIPPED], "gone.jpg", "loop", "pipe.jpg"}
    tried = len(files[DONE]) + len(files[FAILED])
    before = digests(photos)

    def protect(*options: str) -> list[str]:
        code = main([
            "protect", str(photos), str(out), "--recursive", "--report", str(report), *options,
            "--checkpoint", str(tiny_checkpoint), "--device", "cpu", "--refine-steps", "0",
            "--expression-strength", "0",
        ])  # fmt: skip
        assert code == 1
        return capsys.readouterr().err.splitlines()

    said = protect()
    after = digests(photos)
    assert {name: after[name] for name in before} == before
    reasons = reasons_by_name(said)
    assert {name for name, text in reasons.items() if text.startswith("skipped: ")} == skipped
    assert reasons.keys() - skipped == set(files[FAILED])
    for name in files[FAILED]:
        assert " must " in reasons[name], name
    assert said[-1] == f"{len(files[FAILED])} of {tried} photos failed."
    assert not any("._IMG" in line or ".hidden" in line for line in said)

    results = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert len({name.casefold() for name in results}) == len(results) == len(files[DONE])
    for name in results:
        with Image.open(out / name) as result:
            assert result.format == "PNG"
            assert min(result.size) > 180
            assert not result.info
            assert result.has_transparency_data == (name == "cutout.png")

    measured = json.loads(report.read_text())
    assert set(measured) == set(files[DONE])
    notes = {name: " ".join(faces[0]["photo"]["notes"]) for name, faces in measured.items()}
    for name, words in NOTES.items():
        assert words in notes[name], name
    silent = set(notes) - set(NOTES)
    assert {name: notes[name] for name in silent if notes[name]} == {}
    assert measured["group.jpg"][0]["photo"]["faces_unprotected"] == 1

    again = protect("--skip-existing")
    assert again[-1] == f"{len(files[FAILED])} of {len(files[FAILED])} photos failed."
    assert digests(photos) == after
    assert set(json.loads(report.read_text())) == set(files[DONE])
