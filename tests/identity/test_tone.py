import pytest
import torch

from map_pipeline.identity.tone import (
    MOST_BROAD,
    MOST_FINE,
    MOST_HIDDEN,
    visible,
    within_contrast,
)


@pytest.mark.parametrize("size", [0.3, -0.3])
def test_a_line_on_smooth_skin_is_faint(size: float) -> None:
    change = torch.zeros(1, 3, 128, 128)
    change[..., 64:66] = size
    smooth_skin = torch.full((1, 3, 128, 128), 0.6)
    assert within_contrast(change, smooth_skin).abs().max() < MOST_FINE + 0.95 * MOST_BROAD
    textured = smooth_skin + 0.2 * torch.rand(1, 1, 128, 128)
    hidden = within_contrast(change, textured).abs().max()
    assert MOST_FINE + 0.01 < hidden < MOST_HIDDEN + 0.95 * MOST_BROAD


def test_lines_are_seen_on_smooth_skin_and_hidden_in_hair() -> None:
    face = torch.full((1, 3, 64, 64), 0.6)
    face[..., 32:] += 0.3 * torch.rand(1, 1, 64, 32) - 0.15
    seen = visible(face)
    assert seen.shape == (1, 1, 64, 64)
    assert seen[..., :24].min() > 0.95
    assert 0 < seen[..., 40:].max() < 0.5


def test_broad_light_is_limited_and_small_changes_stay() -> None:
    source = torch.rand(1, 3, 64, 64)
    assert within_contrast(torch.full((1, 3, 64, 64), 0.9), source).abs().max() <= MOST_BROAD
    little = torch.full((1, 3, 64, 64), 0.01)
    torch.testing.assert_close(within_contrast(little, source), little, rtol=0.03, atol=0)
