import pytest

from map_pipeline import MAPPipeline
from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation.leave_one_out import rotation, surrogates_without


def test_the_whole_family_is_left_out(bundled_pipeline: MAPPipeline) -> None:
    recognisers = bundled_pipeline.recognisers
    for name in rotation(bundled_pipeline, "rotate"):
        chosen = surrogates_without(bundled_pipeline, name)
        assert chosen
        assert recognisers[name].config.family not in {recognisers[n].config.family for n in chosen}
    assert surrogates_without(bundled_pipeline, "") == tuple(bundled_pipeline.surrogates)


def test_a_single_family_cannot_be_left_out(
    tiny_pipeline: MAPPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MAPPipeline, "surrogates", ["mobilefacenet", "faceres"])
    with pytest.raises(UnknownOptionError, match=r"`leave_out` must be 'none'.*got 'rotate'"):
        rotation(tiny_pipeline, "rotate")
    assert rotation(tiny_pipeline, "none") == ("",)
