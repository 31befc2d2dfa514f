import importlib
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ASTRONAUT, build_tiny_pipeline
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from map_pipeline import MAPPipeline
from map_pipeline.cli.main import main
from map_pipeline.config import MODES
from map_pipeline.errors import UnknownOptionError
from map_pipeline.evaluation import profile as profiling
from map_pipeline.evaluation.profile import (
    DTYPES,
    REST,
    STAGES,
    Meter,
    Profile,
    Stage,
    clock,
    example_photo,
    matmul_peak,
    metered,
    profile,
)
from map_pipeline.images import load_image, to_array

CPU = torch.device("cpu")
BY_TITLE = {stage.title: stage for stage in STAGES}
OPEN, CLOSED = Stage("open"), Stage("closed", closed=True)


def test_every_function_of_a_stage_exists_and_is_restored() -> None:
    places = [profiling._find(name) for stage in STAGES for name in stage.functions]
    before = [vars(owner)[name] for owner, name in places]
    metered(lambda: None, time.perf_counter)
    assert [vars(owner)[name] for owner, name in places] == before
    assert len(before) > 20


def test_a_function_is_counted_wherever_the_package_refers_to_it() -> None:
    pipeline = importlib.import_module("map_pipeline.pipeline")
    picture = np.zeros((64, 64, 3), np.uint8)
    meter = metered(lambda: pipeline.load_image(picture), time.perf_counter)
    assert meter.calls == {BY_TITLE["reading, detection, landmarks"]: 1}
    assert pipeline.load_image is load_image


def test_an_error_leaves_nothing_wrapped() -> None:
    before = torch.autograd.grad

    def fail() -> None:
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        metered(fail, time.perf_counter)
    assert torch.autograd.grad is before


def test_stages_never_overlap() -> None:
    """Ticks of a made-up clock: one within another is taken out of it, unless that is closed."""
    now = iter(range(100))
    meter = Meter(lambda: next(now))  # every look at the clock takes a tick
    with meter.stage(OPEN):  # 1 tick before it
        with meter.stage(CLOSED), meter.stage(OPEN):  # 1 before, 1 within
            pass
        with meter.stage(OPEN):  # nothing begins within itself
            pass
    meter.settle()
    assert meter.spent == {REST: 2, OPEN: 2, CLOSED: 1}
    assert meter.calls == {OPEN: 1, CLOSED: 1}


def test_operations_of_a_known_network() -> None:
    """A product of [n,a] and [a,b] takes 2 n a b; backward costs as much for the weights."""
    layer, batch = nn.Linear(7, 5, bias=False), torch.ones(3, 7)
    with FlopCounterMode(display=False) as counter:
        meter = metered(
            lambda: torch.autograd.grad(layer(batch).sum(), layer.weight),
            counter.get_total_flops,
        )
    assert meter.spent[REST] == 2 * 3 * 7 * 5
    assert meter.spent[BY_TITLE["backward"]] == 2 * 3 * 7 * 5
    assert meter.calls == {BY_TITLE["backward"]: 1}


@pytest.fixture(scope="module")
def measured() -> tuple[Profile, float]:
    """A profile of the tiny pipeline, and the seconds that all of it took."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiling, "MATMUL_SECONDS", 0.01)
        patch.setitem(profiling.MATMUL_SIDE, "cpu", 128)
        pipe = build_tiny_pipeline(edits=True)
        photo = to_array(load_image(ASTRONAUT))[:256, 96:352]
        started = time.perf_counter()
        return profile(pipe, photo), time.perf_counter() - started


def test_the_stages_of_a_protection(measured: tuple[Profile, float]) -> None:
    found, elapsed = measured
    steps = MODES["fast"].refine_steps - MODES["fast"].steps_saved  # of the trained network
    assert found.calls[BY_TITLE["inversion"]] == 1
    for title in ("backward", "gradients joined", "optimiser"):
        assert found.calls[BY_TITLE[title]] == steps
    assert found.calls[BY_TITLE["generations, forward"]] == steps + 2
    assert found.calls[BY_TITLE["noise prediction of score matching"]] == 0  # not in fast mode
    assert found.calls[BY_TITLE["expression edit"]] == 2
    assert all(seconds >= 0 for seconds in found.seconds.values())
    assert found.seconds[REST] < 0.5 * found.seconds.total() < elapsed
    work = {stage.title for stage, count in found.flops.items() if count > 0}
    assert work >= {"inversion", "recognisers, forward", "backward", "report"}
    assert not work & {"optimiser", "gradients joined"}


def test_shares_sum_up(measured: tuple[Profile, float]) -> None:
    lines = measured[0].to_markdown().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:2] == "| "]
    *stages, whole = rows[1:]
    assert len({len(row) for row in rows}) == 1
    shares = [float(row[3].removesuffix(" %")) for row in stages]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
    seconds = [float(row[2]) for row in stages]
    assert sum(seconds) == pytest.approx(float(whole[2]), abs=0.005 * (len(seconds) + 1))


def test_the_ratio_to_the_limit_is_that_of_the_faster_arithmetic() -> None:
    stage = STAGES[0]
    peaks = {"bf16": 200e9, "fp32": 100e9}
    found = Profile(
        "a run", Counter({stage: 4.0}), Counter({stage: 1}), Counter({stage: 2e11}), peaks
    )
    assert found.limit == 1.0
    text = found.to_markdown()
    assert "| all | | 4.00 | 100.0 % | 200.0 | 50.0 |" in text
    assert "200 GFLOP/s in bf16 and 100 GFLOP/s in fp32" in text
    assert "take 1.00 s: 25.0 % of" in text


@pytest.mark.parametrize("name", DTYPES)
def test_peak_of_a_matrix_product(name: str) -> None:
    side = 64
    started = time.perf_counter()
    peak = matmul_peak(DTYPES[name], CPU, side, at_least=0.05)
    assert 0.05 <= time.perf_counter() - started < 5
    first, second = (torch.ones(side, side, dtype=DTYPES[name]) for _ in range(2))
    read = clock(CPU)
    before = read()
    first @ second
    # The best of many products isn't slower than half as fast as any one of them.
    assert peak >= 0.5 * 2 * side**3 / (read() - before)


def test_the_example_shows_a_face(bundled_pipeline: MAPPipeline) -> None:
    photo, name = example_photo(bundled_pipeline)
    assert photo.shape == (256, 256, 3)
    assert len(bundled_pipeline.face_detector.detect(photo)) == 1
    assert bundled_pipeline.targets.names[0] in name


def test_without_composites_a_photo_must_be_given() -> None:
    pipe = build_tiny_pipeline()
    pipe.register_modules(targets=None)
    with pytest.raises(UnknownOptionError, match="`PHOTO` must be given"):
        example_photo(pipe)


def test_a_file_that_is_no_photo(
    capsys: pytest.CaptureFixture, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    path = tmp_path / "no.png"
    path.write_text("no picture")
    assert main(["profile", str(path), "--checkpoint", str(tiny_checkpoint)]) == 2
    assert "map-protect: `image` must" in capsys.readouterr().err
