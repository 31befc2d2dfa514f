import numpy as np
import pytest
from conftest import ASTRONAUT

from map_pipeline import MAPPipeline
from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation.names import resolve, transform
from map_pipeline.evaluation.purify import purify
from map_pipeline.evaluation.settings import Settings
from map_pipeline.images import load_image, to_array


def test_the_plain_photo_is_always_judged_first() -> None:
    assert resolve(Settings(transforms=("jpeg75", "none"))).transforms == ("none", "jpeg75")


def test_purification_has_its_level_in_its_name(tiny_pipeline: MAPPipeline) -> None:
    photo = to_array(load_image(ASTRONAUT).crop((96, 0, 352, 256)))
    purified = transform(tiny_pipeline, "purify200")(photo, 0)
    np.testing.assert_array_equal(purified, purify(tiny_pipeline, photo, 200, 0))
    with pytest.raises(UnknownOptionError, match=r"`transforms` must be one of none.*'purify0'"):
        resolve(Settings(transforms=("purify0",)))
