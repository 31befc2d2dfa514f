"""Wide colour spaces that files name without holding a profile: EXIF's Adobe RGB, ITU-T H.273.

A PNG names one in its chunk cICP, AVIF and HEIC in a box "colr", both by the numbers of H.273.
"""

import re
import struct
from functools import cache

from PIL import ImageCms

# Name -> red, green and blue as X, Y, Z under the light D50 of ICC profiles, and the exponent of
# its curve, where it's another than sRGB's. As in the profiles of Adobe, Apple and the ICC.
SPACES: dict[str, tuple[tuple[float, ...], float | None]] = {
    "Adobe RGB": (
        (*(0.60974, 0.31111, 0.01947), *(0.20528, 0.62567, 0.06087), *(0.14919, 0.06322, 0.74457)),
        2.19921875,
    ),
    "Display P3": (
        (*(0.51512, 0.24120, -0.00105), *(0.29198, 0.69225, 0.04189), *(0.15710, 0.06657, 0.78407)),
        None,
    ),
    "BT.2020": (
        (*(0.67348, 0.27904, -0.00194), *(0.16566, 0.67534, 0.02998), *(0.12505, 0.04561, 0.79686)),
        None,
    ),
}
# Of H.273: primaries that are shown as sRGB's everywhere, and those of `SPACES`.
ORDINARY, WIDE = (0, 1, 2, 5, 6, 7), {9: "BT.2020", 12: "Display P3"}
# Curves that aren't shown as sRGB's: linear, logarithmic, PQ and HLG.
UNUSUAL_CURVES = (8, 9, 10, 16, 18)
PNG_START = b"\x89PNG\r\n\x1a\n"
NAMING_BYTES = 2**16  # of the beginning of a file, where it names its colours
PNG_POINTS = re.compile(rb"\x00\x00\x00\x04cICP(.)(.)", re.DOTALL)
HEIF_POINTS = re.compile(rb"colrnclx\x00(.)\x00(.)", re.DOTALL)


def named_gamut(content: bytes) -> str | None:
    """What a PNG, AVIF or HEIC file names its colours; None for sRGB, or if it doesn't.

    Returns:
        a name of `SPACES`, or other words for what is only reported.
    """
    head = content[:NAMING_BYTES]
    if head.startswith(PNG_START):
        found = PNG_POINTS.search(head.partition(b"IDAT")[0])
    else:
        found = HEIF_POINTS.search(head) if head[4:8] == b"ftyp" else None
    if found is None:
        return None
    primaries, curve = b"".join(found.groups())
    if curve in UNUSUAL_CURVES:
        return "an HDR or linear space"
    return None if primaries in ORDINARY else WIDE.get(primaries, "a rare space")


@cache
def profile_of(name: str | None) -> bytes | None:
    """A colour profile for a name of `SPACES`, else None."""
    if name not in SPACES:
        return None
    colours, gamma = SPACES[name]
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", profile, 128)
    places = {
        tag: place for tag, place, _ in struct.iter_unpack(">4sII", profile[132 : 132 + 12 * count])
    }
    for index, tag in enumerate((b"rXYZ", b"gXYZ", b"bXYZ")):
        _write(profile, places[tag] + 8, colours[3 * index : 3 * index + 3])
    if gamma is not None:  # sRGB's is x -> (a x + b)^g from d on, and c x below
        for tag in (b"rTRC", b"gTRC", b"bTRC"):
            _write(profile, places[tag] + 12, (gamma, 1.0, 0.0, 0.0, 0.0))
    return bytes(profile)


def _write(profile: bytearray, place: int, numbers: tuple[float, ...]) -> None:
    """Put numbers into a profile, as multiples of 1/65536."""
    struct.pack_into(f">{len(numbers)}i", profile, place, *(round(n * 65536) for n in numbers))
