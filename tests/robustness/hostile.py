"""Pictures made to break things: real files of every kind, mutations of them, and hand-made bombs.

`samples` are good files; `bombs` are files that each attack one weakness of decoders; `mutants`,
`chunk_soup`, `arrays` and `names` are hypothesis strategies.
"""

import struct
import zlib

import numpy as np
import torch
from bombs import ENTITIES, HTML, SVG, bombs
from file_parts import PNG_START, chunk, png_header
from good_files import (
    adobe_rgb,
    crowd,
    cutout,
    display_p3,
    encode,
    exif_block,
    faces,
    heic,
    portrait,
    samples,
    srgb_profile,
    texture,
)
from hypothesis import strategies as st
from PIL import Image

__all__ = [
    "ENTITIES",
    "HTML",
    "NAMES",
    "SVG",
    "adobe_rgb",
    "arrays",
    "bombs",
    "chunk_soup",
    "crowd",
    "cutout",
    "display_p3",
    "encode",
    "exif_block",
    "faces",
    "heic",
    "images",
    "mutants",
    "names",
    "portrait",
    "samples",
    "srgb_profile",
    "texture",
]

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


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
