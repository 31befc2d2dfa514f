"""Every argument has its effect, and one that can't be used is named."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from map_pipeline import MAPConfig, MAPPipeline, default_objectives, with_weights
from map_pipeline.config import MODES
from map_pipeline.errors import (
    FaceTooSmallError,
    InvalidImageError,
    NoFaceError,
    UnknownOptionError,
)

pytestmark = pytest.mark.usefixtures("cheap_changes")


@pytest.mark.slow
def test_settings_reach_the_optimisation(protect: Callable, photo: np.ndarray) -> None:
    plain = protect(photo, refine_steps=2).images[0]
    for settings in (
        {"seed": 1},
        {"emotion": "angry"},
        {"target": "second"},
        {"surrogates": ["faceres"]},
        {"num_generation_steps": 3},
        {"num_inversion_steps": 5},
        {"objectives": with_weights(default_objectives(), expression=0)},
        {"config": MAPConfig(learning_rate=1e-2)},
    ):
        other = protect(photo, **{"refine_steps": 2, **settings}).images[0]
        assert (other != plain).any(), settings


@pytest.mark.slow
def test_arguments_go_before_the_config(protect: Callable, photo: np.ndarray) -> None:
    config = MAPConfig(num_inversion_steps=2, num_generation_steps=2, refine_steps=3)
    steps: list[int] = []
    protect(
        photo,
        config=config,
        num_inversion_steps=None,
        num_generation_steps=None,
        refine_steps=2,
        callback_on_step_end=lambda _pipe, index, _timestep, _given: steps.append(index),
    )
    assert steps == [0, 1]


@pytest.mark.slow
def test_fast_is_less_work_than_strong(tiny_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    """Fewer steps, and none of them denoises for L_SM; both look at the expression networks."""
    steps: dict[str, list[dict[str, float]]] = {}
    for mode in ("fast", "strong"):
        seen = steps[mode] = []
        [[report]] = tiny_pipeline(
            photo,
            target="first",
            mode=mode,
            callback_on_step_end=lambda _pipe, _i, _t, given, seen=seen: seen.append(given),
            callback_on_step_end_tensor_inputs=["losses"],
        ).reports
        assert 0 < len(seen) <= MODES[mode].refine_steps  # it may end early
        assert all(one.used_in_optimisation for one in report.expressions)
    assert MODES["fast"].refine_steps < MODES["strong"].refine_steps
    fast, strong = (set(steps[mode][0]["losses"]) for mode in ("fast", "strong"))
    assert "expression" in fast
    assert strong - fast == {"score_matching"}


@pytest.mark.slow
def test_strong_is_the_default(protect: Callable, photo: np.ndarray) -> None:
    plain = protect(photo).images[0]
    np.testing.assert_array_equal(plain, protect(photo, mode="strong").images[0])
    assert (plain != protect(photo, mode="fast").images[0]).any()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"emotion": "hungry"}, "`emotion` must be one of angry.*got 'hungry'"),
        ({"emotion": ["sad", "hungry"]}, "`emotion` must be one of angry.*got 'hungry'"),
        ({"emotion": ["sad", "happy"]}, "one for each of the 1 chosen ones, got 2"),
        ({"target": "nobody"}, "`target` must be.*first, second, third.*got 'nobody'"),
        ({"surrogates": ["vgg"]}, r"`surrogates` must name some of dlib_resnet.*got \['vgg'\]"),
        ({"surrogates": []}, "`surrogates` must name some of.*got none"),
        ({"output_type": "gif"}, "`output_type` must be pil, np or pt; got 'gif'"),
        ({"faces": "smallest"}, "`faces` must be"),
        ({"faces": 3}, "`faces` must be.*got 3"),
        ({"faces": np.zeros((1, 4))}, r"`faces` must hold boxes.*got \[0.0, 0.0, 0.0, 0.0\]"),
        ({"mode": "slow"}, "`mode` must be one of fast, strong; got 'slow'"),
    ],
)
def test_unknown_options(protect: Callable, photo: np.ndarray, settings: dict, match: str) -> None:
    with pytest.raises(UnknownOptionError, match=match):
        protect(photo, **settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"margin": -1}, r"`margin` must be >= 0, got -1"),
        ({"margin": math.inf}, "`margin`"),
        ({"margin": math.nan}, "`margin`"),
        ({"margin": "huge"}, "`margin` must be normal, high or a number"),
        ({"refine_steps": -1}, "`refine_steps` must be >= 0, got -1"),
        ({"num_inversion_steps": 1}, "`num_inversion_steps` must be >= 2"),
        ({"num_generation_steps": 0}, "`num_generation_steps` must be >= 1"),
        ({"expression_strength": -0.1}, r"`expression_strength` must be in \[0, 1.5\], got -0.1"),
        ({"expression_strength": 1.51}, "`expression_strength`"),
        ({"expression_strength": math.nan}, "`expression_strength`"),
    ],
)
def test_numbers_out_of_range(
    protect: Callable, photo: np.ndarray, settings: dict, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        protect(photo, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"start_timestep": 0},
        {"expression_strength": 2.0},
        {"learning_rate": 0.0},
        {"adam_betas": (0.5, 1.0)},
        {"max_expression_grad_ratio": -0.1},
        {"ema_decay": 1.0},
        {"num_eot_views": -1},
        {"margin": -0.5},
        {"motion_rate": -1.0},
        {"max_motion": 0.0},
        {"max_shift": 0.0},
        {"patience": 0},
        {"objectives": "both"},
        {"autocast": "fp8"},
    ],
    ids=str,
)
def test_config_names_the_field_and_the_value(settings: dict) -> None:
    [(name, value)] = settings.items()
    with pytest.raises(ValueError, match=f"`{name}` must be .*, got ") as caught:
        MAPConfig(**settings)
    assert repr(value) in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("margin", [0, 10.0, "high"])
def test_any_margin_runs(protect: Callable, photo: np.ndarray, margin: float | str) -> None:
    assert protect(photo, margin=margin).images[0].shape == photo.shape


def test_errors_name_the_photo_of_a_list(
    protect: Callable, photo: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("Dear diary")
    small = np.array(Image.fromarray(photo).resize((180, 180), Image.Resampling.LANCZOS))
    grey = np.full((128, 128, 3), 128, np.uint8)
    for bad, error, words in (
        (grey, NoFaceError, "face"),
        (small, FaceTooSmallError, "40"),
        (tmp_path / "text.png", InvalidImageError, r"text\.png"),
        (7, InvalidImageError, "int"),
    ):
        with pytest.raises(error, match=rf"`image\[1\]`.*{words}"):
            protect([photo, bad])
        with pytest.raises(error, match=words) as caught:
            protect(bad)
        assert "[" not in str(caught.value).split("`")[1]
    with pytest.raises(InvalidImageError, match="`image` must be a photo or a list"):
        protect([])


def test_start_beyond_the_noise_schedule(protect: Callable, photo: np.ndarray) -> None:
    config = MAPConfig(start_timestep=1000, num_inversion_steps=2, num_generation_steps=2)
    with pytest.raises(ValueError, match="`start_timestep` must be in"):
        protect(photo, config=config)
