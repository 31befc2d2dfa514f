"""Parts of MAP that are switched off for a comparison, and the method that lacks most of them."""

import numpy as np
import pytest
import torch

from map_pipeline import MAPPipeline
from map_pipeline.config import MODES
from map_pipeline.evaluation.methods import Task, create
from map_pipeline.evaluation.methods.parts import PARTS, switched_off
from map_pipeline.identity import tone
from map_pipeline.identity.refine import as_shading
from map_pipeline.images import to_array

QUICK = {"refine_steps": 3, "num_inversion_steps": 2}


def task(portrait: np.ndarray) -> Task:
    return Task(portrait, "happy", "first", ("dlib_resnet", "mobilefacenet"), 0)


def test_a_part_is_back_after_an_error() -> None:
    shipped = [getattr(module, name) for module, name, _ in PARTS.values()]
    with pytest.raises(KeyError), switched_off(("contrast", "shading")):
        raise KeyError
    assert [getattr(module, name) for module, name, _ in PARTS.values()] == shipped


def test_without_limits_of_contrast_the_colours_are_still_the_faces() -> None:
    source, change = torch.full((1, 3, 64, 64), 0.5), torch.zeros(1, 3, 64, 64)
    change[:, 0] = 0.9  # red, and brighter than anything that is allowed
    limited = as_shading(change, source)
    with switched_off(("contrast",)):
        free = as_shading(change, source)
    assert limited.max() <= tone.MOST_BROAD < 0.25
    torch.testing.assert_close(free, torch.full_like(free, 0.9 * 0.299), rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("cheap_changes")
def test_it_paints_in_colour_and_on_the_nose(
    tiny_pipeline: MAPPipeline, portrait: np.ndarray
) -> None:
    """Where the whole method hardly paints, and in hues that the face doesn't have."""
    [face] = tiny_pipeline.face_detector.detect(portrait)
    x, y = face.landmarks[2].round().astype(int)
    change, whole = (
        create(name, settings=QUICK).protect(tiny_pipeline, task(portrait)).astype(int) - portrait
        for name in ("free-form", "map")
    )
    nose = np.s_[y - 4 : y + 5, x - 4 : x + 5]
    assert np.abs(change[nose]).max() > np.abs(whole[nose]).max()
    # A change of light alone has one sign in all channels.
    both = (change.max(-1) > 1) & (change.min(-1) < -1)
    assert both.any()


def test_nothing_moves_and_no_expression_is_shown(
    editing_pipeline: MAPPipeline, portrait: np.ndarray
) -> None:
    """Asked for no step, it does nothing, though the pipeline can edit and knows a network."""
    method = create("free-form", settings={"margin": "high", "expression_strength": 1.0})
    assert method.settings == {"margin": "high", "expression_strength": 0.0}
    assert (method.config.motion_rate, method.config.use_map_network) == (0, False)
    assert method.config.refine_steps == MODES["strong"].refine_steps
    still = editing_pipeline(portrait, config=method.config, expression_strength=0, refine_steps=0)
    np.testing.assert_array_equal(to_array(still.images[0]), portrait)
