"""What a picture must be to pass the gate, and what becomes of it: one table for code and README.

`Rule` holds the texts of the errors; `rules_table` writes both lists as Markdown:
`python -c "from map_pipeline.images import rules_table; print(rules_table())"`.
"""

from enum import StrEnum

from map_pipeline.errors import InvalidImageError

# Formats people photograph and share in; each is recognised by content, never by file name.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "TIFF", "GIF")
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif"),
    *(".heic", ".heif"),
)
# Of the packings of TIFF, those in which photos come. The others are for fax and film, and one of
# them answers every damaged line with a line on the terminal.
TIFF_COMPRESSIONS = (
    "raw",
    "packbits",
    "tiff_lzw",
    "tiff_deflate",
    "tiff_adobe_deflate",
    "jpeg",
)
MAX_BYTES = 100_000_000  # a 16-megapixel TIFF of 16 bits per colour; a page may allow less
MAX_PIXELS = 120_000_000  # a 100-megapixel photo is 300 MB as uint8 RGB; more is refused
MIN_SIDE = 40  # px; a smaller picture can't hold a face that can be protected
# Computing time, not waiting time, so that a busy machine refuses nothing. A photo of
# `MAX_PIXELS` takes 1 to 3 s; files made to be slow take hours.
MAX_SECONDS = 6


class Rule(StrEnum):
    """What a picture must be; each rule is the first half of the error that a breach raises."""

    KIND = "`image` must be a path, bytes, PIL image, array or tensor"
    FILE = "`image` must be an existing file that can be read, not a folder, pipe or device"
    BYTES = f"`image` must be a file of at most {MAX_BYTES // 10**6} MB"
    FORMAT = f"`image` must be a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
    SIZE = f"`image` must be at least {MIN_SIDE} px a side and have at most {MAX_PIXELS:,} px"
    TIME = f"`image` must be readable in {MAX_SECONDS} s of computing time"
    SHAPE = (
        "`image` must have the shape [H,W], [H,W,3] or [H,W,4] as an array, or [3,H,W] or "
        "[1,3,H,W] as a tensor"
    )
    TYPE = "`image` must be uint8 or float in [0,1]"
    RANGE = "`image` as float must lie in [0,1]"

    def error(self, got: str) -> InvalidImageError:
        """The error that says what came instead; `got` is cut to one short printable line."""
        text = "".join(char if char.isprintable() else " " for char in got)
        return InvalidImageError(f"{self}, got {' '.join(text.split())[:200]}.")


# What a picture may carry, and what becomes of it.
HANDLING = (
    ("File name", "ignored: the content decides the format"),
    (
        "Animation, several pages, a burst, second picture of a phone's JPEG",
        "first frame or main picture; the report says so",
    ),
    ("HEIC format", "read where `pillow-heif` is installed, else refused with advice"),
    ("No end marker, in a JPEG whose pixels are all there", "read; the report says so"),
    ("EXIF orientation", "applied"),
    (
        "Colour profile (RGB, grey, CMYK)",
        "converted to sRGB, or ignored if damaged or unfit; the report says so",
    ),
    (
        "Adobe RGB named by EXIF, Display P3 or BT.2020 named by cICP or nclx",
        "converted to sRGB; any other space is treated as sRGB; the report says so",
    ),
    (
        "Transparency",
        "laid on white for the networks; kept in a PNG, flattened in a JPEG; the report says so",
    ),
    ("Grey, two colours, palette, CMYK, YCbCr, CIE Lab", "8-bit RGB"),
    (
        "16 or 32 bits, floating point",
        "8-bit RGB, and the report says so; white is the first of 1, 8, 16, 32 bits that fits",
    ),
    ("TIFF packing for fax or film", "refused, as these hold no photos"),
    ("EXIF, GPS, XMP, comments, thumbnails, everything else", "dropped"),
)


def rules_table() -> str:
    """Two Markdown tables: what becomes of a picture, and the rules whose breach refuses it."""
    rows = [("A picture with", "becomes"), ("---", "---"), *HANDLING]
    handling = "\n".join(f"| {left} | {right} |" for left, right in rows)
    rules = "\n".join(f"| {rule} |" for rule in Rule)
    return f"{handling}\n\n| Refused with this text, followed by what came |\n| --- |\n{rules}"
