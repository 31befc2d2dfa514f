import re

import pytest

from map_pipeline.evaluation.published import (
    DODGING,
    DODGING_HEADER,
    IMPERSONATION,
    IMPERSONATION_HEADER,
    NOTE,
    SOURCES,
    dodging_rows,
    impersonation_rows,
)


def test_the_note_says_that_these_are_not_our_measurements() -> None:
    assert "not measured by us; other photos, recognisers and thresholds" in NOTE


def test_rows_fit_their_headers() -> None:
    assert all(len(row) == len(IMPERSONATION_HEADER) for row in impersonation_rows())
    assert all(len(row) == len(DODGING_HEADER) for row in dodging_rows())


@pytest.mark.parametrize("one", [*IMPERSONATION, *DODGING], ids=lambda one: one.method)
def test_every_figure_names_a_source_and_its_kind(one: object) -> None:
    cited = re.findall(r"(?:primary|secondary) \((\w)\)", one.source)
    assert cited
    assert set(cited) <= set(SOURCES)


@pytest.mark.parametrize(
    ("method", "mean"), [("DiffAM", 75.79), ("Salar et al.", 76.81), ("TIP-IM", 45.27)]
)
def test_columns_have_the_means_noted_when_they_were_collected(method: str, mean: float) -> None:
    one = next(one for one in IMPERSONATION if one.method == method)
    found = (one.irse50 + one.ir152 + one.facenet + one.mobileface) / 4
    assert found == pytest.approx(mean, abs=0.005)


def test_the_gain_that_diffam_claims_over_clip2protect() -> None:
    average = {one.method: one.average for one in IMPERSONATION}
    assert average["DiffAM"] - average["CLIP2Protect"] == pytest.approx(12.98)


def test_missing_figures_stay_missing() -> None:
    rows = {
        row[0]: dict(zip(IMPERSONATION_HEADER, row, strict=True)) for row in impersonation_rows()
    }
    assert rows["TIP-IM"]["FID"] == rows["TIP-IM"]["PSNR, dB"] == rows["TIP-IM"]["SSIM"] == "-"
    assert rows["AMT-GAN"]["FID"] == "34"
    assert rows["Salar et al."]["FID"] == "15.32"
