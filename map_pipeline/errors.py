"""Typed errors of the package; every message names the rule and the value that broke it."""

from collections.abc import Iterator
from contextlib import contextmanager


class MAPError(ValueError):
    """Base class: something the user can correct. The text is fit to be shown to them."""


class InvalidImageError(MAPError):
    """The input isn't a picture this package accepts (type, size, damage)."""


class InvalidVideoError(MAPError):
    """The input isn't a clip this package accepts, or the output isn't one it can write."""


class NoFaceError(MAPError):
    """No face was found where one was asked for."""


class FaceTooSmallError(MAPError):
    """A face was found, but it has too few pixels to be protected."""


class UnknownOptionError(MAPError):
    """A named choice (emotion, target, ...) that doesn't exist, or a setting outside its range."""


class CheckpointError(MAPError):
    """A checkpoint folder or weight file is missing, damaged or of the wrong kind."""


class NotFiniteError(MAPError):
    """A gradient overflowed; other settings, another precision or another seed may do."""


OUT_OF_MEMORY = """The GPU has too little free memory for this photo. Choose mode 'fast', which \
needs less, close other programs that use the GPU, or run on the CPU."""


class GPUMemoryError(MAPError):
    """The GPU ran out of memory; the text says what to lower."""

    # The text is an argument so that the error can travel between processes.
    def __init__(self, text: str = OUT_OF_MEMORY) -> None:
        super().__init__(text)


@contextmanager
def naming_photo(name: str | None) -> Iterator[None]:
    """Let what goes wrong with one of several photos say with which.

    Args:
        name: what it's called, such as "`image[2]`"; None if there's only one photo.
    """
    try:
        yield
    except UnknownOptionError:  # of no photo in particular
        raise
    except MAPError as error:
        if name is None:
            raise
        text = str(error)
        known = "`image`" in text
        raise type(error)(text.replace("`image`", name) if known else f"{name}: {text}") from error


def check_setting(settings: object, name: str, holds: bool, rule: str) -> None:
    """Raise `UnknownOptionError` if the value of `settings.name` doesn't hold to its rule."""
    if not holds:
        raise UnknownOptionError(f"`{name}` must be {rule}, got {getattr(settings, name)!r}.")
