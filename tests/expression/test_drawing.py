import pytest
import torch

from map_pipeline.expression.drawing import polygon_mask, smooth


def test_polygon_mask_has_the_polygons_area() -> None:
    square = torch.tensor([[10.0, 20.0], [30.0, 20.0], [30.0, 50.0], [10.0, 50.0]])
    assert float(polygon_mask(square, 64).sum()) == pytest.approx(20 * 30, rel=0.03)


def test_smooth_keeps_the_mean_of_a_constant() -> None:
    flat = torch.full((2, 3, 20, 24), 0.3)
    torch.testing.assert_close(smooth(flat, 2.0), flat)


def test_smooth_spreads_a_point_as_a_gaussian() -> None:
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    blurred = smooth(point, 2.0)[0, 0]
    x = torch.arange(41.0) - 20
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-5)
    assert float((blurred.sum(0) * x.square()).sum()) == pytest.approx(4, rel=0.05)
    torch.testing.assert_close(blurred, blurred.T)
