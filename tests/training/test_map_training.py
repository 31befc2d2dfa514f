import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_INPUT, TINY_TEMPLATE, tiny_classifier, tiny_recogniser
from made_up import SIDE, batch, faces, forget_accelerate, score_model
from torch import Tensor

from map_pipeline.config import MAPConfig
from map_pipeline.diffusion.ddim import generate, invert
from map_pipeline.diffusion.map_network import MAPNetwork
from map_pipeline.diffusion.unet import deep_layers, patchify, unpatchify
from map_pipeline.errors import UnknownOptionError
from map_pipeline.expression.motion import count_motions
from map_pipeline.expression.space import ExpressionSpace
from map_pipeline.faces.landmarks import five_points
from map_pipeline.identity.objectives import Goals, default_objectives
from map_pipeline.training import map_step
from map_pipeline.training import map_training as map_network
from map_pipeline.training.config import MAPTrainingConfig
from map_pipeline.training.map_step import (
    Step,
    prepare,
    source_condition,
    success_rates,
    surroundings,
)
from map_pipeline.training.map_training import PRICES, Price, train_map
from map_pipeline.training.score_model import ScoreModel, new_scheduler

pytestmark = pytest.mark.usefixtures("accelerate_anew")

TEMPLATE = torch.tensor(TINY_TEMPLATE) / TINY_INPUT  # units of the side
SCHEDULER = new_scheduler()
QUICK = MAPTrainingConfig(
    surrogates=("one", "two"),
    protection=MAPConfig(num_inversion_steps=2, num_generation_steps=2),
    batch_size=6,
    learning_rate=1e-3,
    warmup=0,
    minutes=1e6,
    updates=4,
    report_every=2,
    mixed_precision="no",
)
ACCELERATOR = SimpleNamespace(  # all that `prepare` and `Step` need of accelerate
    device=torch.device("cpu"), autocast=lambda: torch.autocast("cpu", enabled=False)
)


def recognisers() -> dict:
    return {name: tiny_recogniser(name).requires_grad_(False) for name in ("one", "two")}


def composites(count: int = 3) -> dict[str, Tensor]:
    return {name: F.normalize(torch.randn(count, 16)) for name in ("one", "two")}


def prior() -> ScoreModel:
    """A prior, always the same, that knows the mean shape of the faces."""
    torch.manual_seed(0)
    model = score_model()
    model.conditioner.mean_shape.copy_(faces().landmarks68[:-1].mean(0))
    return model.requires_grad_(False)


def shapes() -> ExpressionSpace:
    """Two free motions, always the same."""
    generator = torch.Generator().manual_seed(0)
    made = ExpressionSpace(motion_count=2)
    made.neutral.copy_(torch.rand(68, 2, generator=generator))
    made.motions.copy_(torch.randn(2, 68, 2, generator=generator) * 0.02)
    return made


@pytest.fixture
def prepared() -> tuple[ScoreModel, dict, map_step.Prepared]:
    model, surrogates = prior(), recognisers()
    return (
        model,
        surrogates,
        prepare(model, SCHEDULER, faces(), surrogates, shapes(), TEMPLATE, QUICK, ACCELERATOR),
    )


# --- what the network gets ---


@pytest.mark.parametrize(
    ("name", "value"),
    [("minutes", 0), ("updates", 0), ("batch_size", 0), ("mixed_precision", "fp16")],
)
def test_settings_outside_their_range_are_named(name: str, value: object) -> None:
    with pytest.raises(UnknownOptionError, match=f"`{name}` must be .*, got {value!r}"):
        MAPTrainingConfig(**{name: value})


def test_what_cannot_run_is_told_before_any_face_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_network, "prepare", None)  # would raise a TypeError
    with pytest.raises(UnknownOptionError, match="`compile` must be used on cuda"):
        train(tmp_path, prior(), compile=True)
    with pytest.raises(ValueError, match="`weight` of 'luma' must be >= 0"):
        train(tmp_path, prior(), weights={"luma": -1.0})


def test_the_face_as_it_is_has_no_emotion() -> None:
    labels = batch()
    answer = source_condition(labels, torch.tensor([3, 23]))
    assert not answer.emotion.any()
    assert torch.equal(answer.shape, labels.landmarks68[[3, 23]])
    assert answer.has_shape.tolist() == [1, 0]


# --- preparation ---


def test_faces_are_inverted_and_reconstructed(
    prepared: tuple[ScoreModel, dict, map_step.Prepared],
) -> None:
    model, surrogates, ready = prepared
    assert len(ready) == 24
    assert ready.starts.shape == (24, 48, 8, 8)
    assert ready.reconstructions.shape == (24, 3, SIDE, SIDE)
    row = 5
    crop = ready.pixels[row : row + 1].float() / 255
    with torch.no_grad():
        answer = model.conditioner(source_condition(ready.labels, torch.tensor([row])))
        latents = patchify(crop, 4)
        start = invert(model.unet, SCHEDULER, latents, 300, 2, answer)
        back = generate(model.unet, SCHEDULER, start, 300, 2, answer)
        region, points = surroundings(crop, ready.landmarks[row : row + 1])
        embedding = surrogates["two"](region, points)
    torch.testing.assert_close(ready.starts[row].float(), start[0], atol=2e-3, rtol=2e-3)
    found = ready.reconstructions[row].float()
    torch.testing.assert_close(found, unpatchify(back, 4)[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(ready.embeddings["two"][row], embedding[0], atol=1e-5, rtol=0)


def test_half_of_the_faces_are_mirrored_with_their_landmarks(
    prepared: tuple[ScoreModel, dict, map_step.Prepared],
) -> None:
    known, (_, _, ready) = faces(), prepared
    mirrored = (ready.pixels == known.images.flip(-1)).all(1).all(1).all(1)
    plain = (ready.pixels == known.images).all(1).all(1).all(1)
    assert torch.equal(mirrored, ~plain)
    assert 4 < mirrored.sum() < 20
    for row in range(23):
        five = torch.from_numpy(five_points(known.landmarks68[row].numpy() * SIDE))
        if mirrored[row]:
            five = five[[1, 0, 2, 4, 3]]
            five[:, 0] = SIDE - 1 - five[:, 0]
        torch.testing.assert_close(ready.landmarks[row], five, atol=1e-3, rtol=0)
    # Without landmarks of its own, a face has those of the template.
    torch.testing.assert_close(ready.landmarks[23], TEMPLATE * SIDE)


def test_surroundings_are_reflected_and_landmarks_stay_on_their_pixel() -> None:
    crops = torch.zeros(1, 3, SIDE, SIDE)
    crops[0, :, 20, 9] = 1
    region, points = surroundings(crops, torch.tensor([[[9.0, 20.0]]]))
    margin = map_step.MARGIN * SIDE // 128
    assert region.shape[-1] == SIDE + 2 * margin
    x, y = points[0, 0].long().tolist()
    assert region[0, 0, y, x] == 1
    assert torch.equal(region[..., margin:-margin, margin:-margin], crops)


# --- a step ---


def step_of(
    ready: map_step.Prepared, model: ScoreModel, surrogates: dict, bank: dict, **settings: int
) -> Step:
    config = replace(QUICK, **settings)
    classifiers = {"encoder": tiny_classifier().requires_grad_(False)}
    dims = dict.fromkeys(surrogates, 16)
    motions = count_motions(shapes())
    network = MAPNetwork.for_unet(model.unet, dims, rank=2, motion_count=motions)
    return Step(
        model, network, SCHEDULER, surrogates, classifiers, bank, ready, config, ACCELERATOR
    )


def test_a_new_network_changes_nothing(
    prepared: tuple[ScoreModel, dict, map_step.Prepared],
) -> None:
    """What it generates is the reconstruction: the change is that of half precision."""
    model, surrogates, ready = prepared
    step = step_of(ready, model, surrogates, composites())
    rows = torch.arange(6)
    with torch.no_grad():
        change = step._change(rows, model.conditioner(source_condition(ready.labels, rows)))
    assert change.abs().max() < 5e-3


def test_targets_are_composites_or_other_people(
    prepared: tuple[ScoreModel, dict, map_step.Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, surrogates, ready = prepared
    bank = composites()
    step = step_of(ready, model, surrogates, bank)
    rows = torch.arange(24).repeat(20)
    source = {name: value[rows] for name, value in ready.embeddings.items()}

    def draw() -> dict[str, Tensor]:
        return step._draw_targets(source, rows, torch.Generator().manual_seed(0))

    def index_in(rows: Tensor, choices: Tensor) -> Tensor:
        """Which of the choices each row is, -1 for none."""
        equal = (rows[:, None] == choices[None]).all(-1)
        return torch.where(equal.any(1), equal.float().argmax(1), -1)

    found = draw()
    in_bank = index_in(found["one"], bank["one"])
    # All recognisers get the same target.
    assert torch.equal(in_bank, index_in(found["two"], bank["two"]))
    built_in = map_step.NEAREST + map_step.ANY_COMPOSITE
    assert (in_bank >= 0).float().mean().item() == pytest.approx(built_in, abs=0.07)
    people = [index_in(found[name][in_bank < 0], ready.embeddings[name]) for name in found]
    assert torch.equal(people[0], people[1])
    assert len(people[0].unique()) > 20

    monkeypatch.setattr(map_step, "NEAREST", 1.0)
    nearest = (source["one"] @ bank["one"].T).argmax(1)
    assert torch.equal(index_in(draw()["one"], bank["one"]), nearest)


def look_at(step: Step, seed: int) -> tuple[dict, dict]:
    """Losses and rates of the batch with this seed."""
    with torch.no_grad():
        look = step(default_objectives(), *(torch.Generator().manual_seed(seed) for _ in range(2)))
    return look.values, look.rates


def test_a_step_measures_every_objective(
    prepared: tuple[ScoreModel, dict, map_step.Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, surrogates, ready = prepared
    step = step_of(ready, model, surrogates, composites())
    objectives = default_objectives()
    monkeypatch.setattr(map_step, "HIDDEN", 0.0)
    values, rates = look_at(step, 0)
    again, _ = look_at(step, 0)
    other, _ = look_at(step, 1)
    assert set(values) == {o.name for o in objectives if o.symbol != "L_SM"}
    assert all(value.isfinite() for value in values.values())
    assert set(rates) == {"impersonates", "dodges", "reached"}
    assert all(torch.equal(values[name], again[name]) for name in values)
    assert any(not torch.equal(values[name], other[name]) for name in values)
    monkeypatch.setattr(map_step, "HIDDEN", 1.0)
    hidden, rates = look_at(step, 0)
    assert set(hidden) == set(values) - {"impersonation"}
    assert set(rates) == {"dodges", "reached"}


def test_the_price_follows_the_goals() -> None:
    price = Price(0.7, torch.device("cpu"))
    for _ in range(50):
        price.follow(torch.tensor(0.9))
    assert 1 < price.value < 2
    charged = price.charge({"luma": torch.tensor(2.0), "dodging": torch.tensor(2.0)})
    assert charged["luma"] == 2 * price.value
    assert charged["dodging"] == 2
    for _ in range(10_000):
        price.follow(torch.tensor(0.0))
    assert price.value == PRICES[0]


def test_success_rates_in_closed_form() -> None:
    embeddings = torch.eye(4)
    goal = SimpleNamespace(
        goals=dict.fromkeys(("one", "two"), Goals(0.3, 0.6, unit=0.5)),
        target_embeddings={"one": torch.eye(4), "two": torch.eye(4)[[0, 0, 0, 0]]},
        source_embeddings={"one": torch.eye(4)[[0, 0, 0, 0]], "two": torch.eye(4)},
    )
    candidate = SimpleNamespace(embeddings={"one": embeddings, "two": embeddings})
    rates = success_rates(candidate, goal)
    assert rates["impersonates"].item() == pytest.approx((4 / 4 + 1 / 4) / 2)
    assert rates["dodges"].item() == pytest.approx((3 / 4 + 0 / 4) / 2)


# --- training ---


def train(
    out: Path, model: ScoreModel, start: MAPNetwork | None = None, **settings: object
) -> list[dict[str, float]]:
    forget_accelerate()
    torch.manual_seed(0)
    surrogates, encoder, bank = recognisers(), tiny_classifier().requires_grad_(False), composites()
    return train_map(
        replace(QUICK, **settings),
        faces(),
        out,
        (copy.deepcopy(model.unet), model.conditioner, SCHEDULER),
        surrogates,
        {"encoder": encoder},
        bank,
        TEMPLATE,
        shapes(),
        lambda _: None,
        start,
    )


def loaded(out: Path, model: ScoreModel | None = None) -> tuple[ScoreModel, MAPNetwork]:
    """The prior with the network of a run."""
    model = copy.deepcopy(model or prior())
    network = MAPNetwork.from_pretrained(out)
    network.merge_into(model.unet)
    return model, network


def test_every_part_of_the_network_learns_and_the_prior_stays(tmp_path: Path) -> None:
    model = prior()
    before = copy.deepcopy(model.state_dict())
    train(tmp_path, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    after = MAPNetwork.from_pretrained(tmp_path)
    assert after.surrogates == ["one", "two"]
    assert len(after.up) == len(deep_layers(model.unet))
    assert sum(bool(up.any()) for up in after.up) > 0.9 * len(after.up)
    assert all(head[-1].weight.any() for head in (after.condition_out, after.motion_out))
    assert after.config.families == ["one", "two"]


def test_no_parameter_is_left_out_of_the_training() -> None:
    network = MAPNetwork.for_unet(prior().unet, {"one": 16, "two": 16}, motion_count=3)
    trained, layers = map_network.grouped_parameters(network)
    assert {id(one) for one in trained} == {id(one) for one in network.parameters()}
    assert len(layers) == len(trained)


def test_training_goes_on_from_another_network(tmp_path: Path) -> None:
    train(tmp_path / "a", prior(), learning_rate=0.02)
    first = MAPNetwork.from_pretrained(tmp_path / "a")
    train(tmp_path / "b", prior(), first, learning_rate=1e-6)
    second = MAPNetwork.from_pretrained(tmp_path / "b").state_dict()
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second[name], value, atol=1e-3, rtol=1e-2)  # fp16


def test_reports_and_files(tmp_path: Path) -> None:
    reports = train(tmp_path, prior(), weights={"dodging": 0.0})
    names = {o.name for o in default_objectives()} - {"dodging"} | {"realism", "price"}
    rates = {"impersonates", "dodges", "reached", "conflict", "told_apart"}
    optional = {"impersonation", "impersonates"}  # not every batch has a target
    assert [report["update"] for report in reports] == [2, 4]
    for report in reports:
        assert set(report) | optional == names | rates | {"update", "minutes"}
        assert all(0 <= report[name] <= 1 for name in rates & set(report))
    answer = json.loads((tmp_path / "training_map.json").read_text())
    assert answer["reports"] == reports
    assert answer["config"]["weights"] == {"dodging": 0.0}
    assert answer["config"]["protection"]["num_inversion_steps"] == 2


@pytest.mark.slow
def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    """The same as in one go, but for the gradients' EMA, which starts anew."""
    settings = {"average_decay": 0.0, "protection": replace(QUICK.protection, ema_decay=0.0)}
    whole = train(tmp_path / "whole", prior(), **settings)
    # The learning rate depends on how much of the run is done: stopped, not made shorter.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(map_network.Reports, "close", stopping_after(2))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", prior(), **settings)
    parts = train(tmp_path / "parts", prior(), **settings)
    assert [report["update"] for report in parts] == [2, 4]
    assert parts[1]["dodging"] == pytest.approx(whole[1]["dodging"], rel=1e-4)
    one, other = (MAPNetwork.from_pretrained(tmp_path / n).state_dict() for n in ("whole", "parts"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-4, rtol=2e-3)  # fp16


def stopping_after(count: int) -> Callable:
    """`Reports.close` that is interrupted before the report after update `count`."""
    close = map_network.Reports.close

    def stop(self: map_network.Reports, clock: map_network.Progress) -> None:
        if clock.update > count:
            raise KeyboardInterrupt
        close(self, clock)

    return stop


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    train(tmp_path, prior(), updates=2)
    with pytest.raises(UnknownOptionError, match=r"`rank` must stay 16, as in the run .* got 4"):
        train(tmp_path, prior(), rank=4)
    with pytest.raises(UnknownOptionError, match="`weights` must stay"):
        train(tmp_path, prior(), weights={"luma": 1.0})
    shutil.rmtree(tmp_path / "state")
    with pytest.raises(UnknownOptionError, match="which holds weights only"):
        train(tmp_path, prior())


@pytest.mark.slow
def test_both_objectives_go_down(tmp_path: Path) -> None:
    """Without the prior's objection, on the same faces, targets and emotions before and after."""
    model = prior()
    torch.manual_seed(0)  # as in `train`
    surrogates, encoder, bank = recognisers(), tiny_classifier(), composites()
    ready = prepare(model, SCHEDULER, faces(), surrogates, shapes(), TEMPLATE, QUICK, ACCELERATOR)

    def measure(model: ScoreModel, network: MAPNetwork) -> dict[str, float]:
        config, judges = replace(QUICK, batch_size=48), {"encoder": encoder}
        parts = (model, network, SCHEDULER, surrogates, judges, bank, ready, config, ACCELERATOR)
        step = Step(*parts)
        looks = [look_at(step, seed)[0] for seed in range(6)]
        names = set().union(*looks)  # not every look has a target
        noted = {name: [look[name].item() for look in looks if name in look] for name in names}
        return {name: sum(values) / len(values) for name, values in noted.items()}

    prices = ["motion", "smoothness", "luma", "visibility", "score_matching"]
    off = dict.fromkeys(prices, 0.0)
    settings = {"updates": 60, "report_every": 20, "learning_rate": 3e-3, "realism": 0.0}
    settings["average_decay"] = 0.0
    new = MAPNetwork.for_unet(
        model.unet, dict.fromkeys(surrogates, 16), motion_count=count_motions(shapes())
    )
    before = measure(model, new)
    train(tmp_path, model, weights=off, **settings)
    after = measure(*loaded(tmp_path, model))
    for name in ("impersonation", "dodging"):
        assert after[name] < before[name] - 1e-3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_network(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path / name, prior(), seed=seed, updates=2)
    a, b, c = (MAPNetwork.from_pretrained(tmp_path / name).state_dict() for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)
