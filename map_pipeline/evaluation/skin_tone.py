"""How light or dark a person's skin is in a photo: the individual typology angle.

Chardon, Cretois and Hourseau, Int. J. Cosmet. Sci. 13 (1991): the angle arctan((L* - 50) / b*) of
skin in CIELAB under D65, in six classes from very light to dark. It is meant for measured skin. In
a photo it says how the skin *looks*, light and white balance included, so it sorts photos into
groups and says nothing about a person.
"""

import math

import numpy as np
from skimage.color import rgb2lab

from map_pipeline.errors import MAPError
from map_pipeline.evaluation.face_parts import cheeks
from map_pipeline.evaluation.methods.base import find_face, find_shape
from map_pipeline.pipeline import MAPPipeline

# Class -> angle in degrees that its members lie above; the last class is the rest.
CLASSES = {"very light": 55, "light": 41, "intermediate": 28, "tan": 10, "brown": -30, "dark": -91}
LEAST_YELLOW = 1.0  # b* of skin, which is 5 to 25; below it, the photo has no colours to go by


def typology_angle(skin: np.ndarray) -> float | None:
    """The angle of skin in degrees, in (-90,90); None without colour.

    L* and b* are medians, so that a highlight or a lock of hair changes nothing.

    Args:
        skin: pixels `[N,3]`, sRGB in [0,1].
    """
    if not len(skin):
        return None
    lightness, _, yellow = np.median(rgb2lab(skin, illuminant="D65"), axis=0)
    if yellow < LEAST_YELLOW:
        return None
    return math.degrees(math.atan2(lightness - 50, yellow))


def skin_angle(pipe: MAPPipeline, photo: np.ndarray) -> float | None:
    """The angle of the cheeks of a photo's largest face; None where they can't be seen.

    Args:
        photo: `uint8 [H,W,3]`.
    """
    try:
        place = find_face(pipe, photo)
        shape = find_shape(pipe, photo, place)
    except MAPError:
        return None
    image = place.region.image
    mask = cheeks(shape, (image.shape[-2], image.shape[-1]))[0, 0] > 0.5
    return typology_angle(image[0].permute(1, 2, 0)[mask].cpu().numpy())


def skin_tone(angle: float) -> str:
    """The class of an angle in degrees."""
    return next(name for name, limit in CLASSES.items() if angle > limit)
