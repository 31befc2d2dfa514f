"""A free-form change of attributes by a diffusion model: our own simple version of that family.

DiffProtect (Liu et al. 2023, https://arxiv.org/abs/2305.13625) and Adv-Diffusion (Liu et al. 2024,
https://arxiv.org/abs/2312.11285) let a diffusion model repaint a face in whatever way hides its
identity. Neither is run here. Instead MAP's own score network does the same with MAP's surrogates,
views, identity losses and price of visible change, but

- shows no expression and moves nothing,
- paints in any colour, as strongly as it likes, on nose, eyes, brows and beyond the face, too,
- starts from the prior, for the trained network knows the limits that are lifted here.
"""

from dataclasses import replace

from map_pipeline.config import MODES
from map_pipeline.evaluation.methods.map import MAP

FREE_FORM = MAP(
    "free-form",
    "free-form attribute, own version",
    config=replace(MODES["strong"], motion_rate=0.0, use_map_network=False),
    weights={"expression": 0.0},
    settings={"expression_strength": 0.0},
    without=("shading", "quiet_features", "outline"),
)
