"""Files of a result: what a visitor takes home."""

import json
import tempfile
from pathlib import Path

from map_pipeline.report import with_notes
from map_pipeline.ui.service import Files, Protected, Upload

LOSSY_FORMATS = ("JPEG", "WEBP", "AVIF", "HEIF")
SHOWN_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # by every browser
RESULT_NAMES = {"jpeg": "protected.jpg", "png": "protected.png"}


def write_files(
    upload: Upload, protected: Protected, folder: str, file_type: str, max_bytes: int
) -> tuple[Files, Protected]:
    """Write a result into a new folder inside of `folder`, under names that give nothing away.

    Args:
        upload: what was protected.
        file_type: of the result, see `Choices`.
        max_bytes: the page's limit for uploads. What is larger can't be checked there.

    Returns:
        The paths, and the result with notes on what the file couldn't hold.
    """
    from map_pipeline.images import save_image

    own, photo = Path(tempfile.mkdtemp(dir=folder)), upload.photo
    lossy = photo.format in LOSSY_FORMATS and photo.cutout is None
    kind = ("jpeg" if lossy else "png") if file_type == "auto" else file_type
    after = own / RESULT_NAMES[kind]
    notes = save_image(protected.photo, after)
    if kind == "png" and after.stat().st_size > max_bytes:
        limit = f"larger than the {max_bytes // 10**6} MB that this page reads"
        if file_type == "auto":
            after.unlink()
            after = own / RESULT_NAMES["jpeg"]
            notes = [*save_image(protected.photo, after), f"a PNG would be {limit}: this is a JPEG"]
        else:
            notes = [f"this PNG is {limit}, so it can't be checked here"]
    before = upload.path
    if photo.format not in SHOWN_FORMATS:
        before = str(own / "original.jpg")
        save_image(photo.pixels, before)
    protected = Protected(protected.photo, with_notes(protected.reports, notes))
    report = own / "report.json"
    report.write_text(json.dumps([one.to_dict() for one in protected.reports], indent=2))
    return Files(before, str(after), str(report)), protected
