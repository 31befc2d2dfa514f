"""HEIC, the format of iPhones: always recognised, read where `pillow-heif` is installed."""

from functools import cache

# Major brands of ISO/IEC 23008-12, and those that only say "some picture" (AVIF uses them, too).
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
ANY_PICTURE = (b"mif1", b"msf1")
HEAD = 64  # bytes that show the format


def is_heic(head: bytes) -> bool:
    """Whether a file that begins with these bytes is HEIC, whatever its name."""
    if head[4:8] != b"ftyp":
        return False
    length = min(int.from_bytes(head[:4], "big"), len(head))
    compatible = [head[at : at + 4] for at in range(16, length, 4)]
    return head[8:12] in BRANDS or (
        head[8:12] in ANY_PICTURE and any(brand in BRANDS for brand in compatible)
    )


@cache
def can_read_heic() -> bool:
    """Let Pillow read HEIC if the extra is installed; whether it can."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
