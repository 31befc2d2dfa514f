import numpy as np
import pytest
import torch
from conftest import ASTRONAUT, build_tiny_pipeline
from PIL import Image, ImageFilter

from map_pipeline import MAPPipeline, NoFaceError, UnknownOptionError, default_objectives
from map_pipeline.evaluation.methods import (
    ABLATIONS,
    TRADE_OFF,
    Task,
    create,
    method_names,
)
from map_pipeline.evaluation.methods.base import find_face, find_target
from map_pipeline.evaluation.methods.identity import identity_loss
from map_pipeline.faces.align import extract_region
from map_pipeline.images import load_image, to_array, uint8_tensor

QUICK = {"refine_steps": 1, "num_inversion_steps": 2, "num_generation_steps": 2}
# What tiny networks find isn't worth its price, so it's free here.
FREE = {
    **QUICK,
    "refine_steps": 4,
    "objectives": [one for one in default_objectives() if one.side == "identity"],
}
NOISE = ("pgd", "mifgsm", "tidim", "tipim")
GREY = np.full((100, 100, 3), 128, np.uint8)
ONE_PIXEL = 1.5 * 2 / 32  # of the tiny score network's crop: a diagonal, in half sides
# Which modes MAP has is the pipeline's affair; its ablations and "free-form" have test files.
METHODS = ("map", *NOISE, "make-up", "blur", "mosaic", "none")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return to_array(load_image(ASTRONAUT))[:256, 96:352]


def task(photo: np.ndarray, **changes: object) -> Task:
    settings = {
        "emotion": "happy",
        "target": "first",
        "surrogates": ("dlib_resnet", "mobilefacenet"),
        "seed": 0,
    }
    return Task(photo, **{**settings, **changes})


def loss_of(pipe: MAPPipeline, one: Task, result: np.ndarray) -> float:
    """The identity loss of a result, on the face as it lay in the photo."""
    place = find_face(pipe, one.photo)
    loss = identity_loss(pipe, one, place, find_target(pipe, one, place))
    region = extract_region(uint8_tensor(result), torch.as_tensor(place.face.landmarks))
    with torch.no_grad():
        return float(loss(region.image))


def mask_by_hand(pipe: MAPPipeline, photo: np.ndarray, slack: float = 0.0) -> np.ndarray:
    """Where `feather_mask` isn't 0, from its formula: |x|^2.5 + |y|^2.5 < 1 in the face's crop."""
    [face] = pipe.face_detector.detect(photo)
    template = np.array(pipe.config.alignment_template) * 2 - 1  # units: half the crop's side
    points = face.landmarks.astype(np.float64)
    # Least-squares similarity as one complex number: template = a * point + b.
    z, w = (p[:, 0] + 1j * p[:, 1] for p in (points, template))
    a = ((z - z.mean()).conj() * (w - w.mean())).sum() / (abs(z - z.mean()) ** 2).sum()
    y, x = np.mgrid[: photo.shape[0], : photo.shape[1]]
    crop = a * (x + 1j * y - z.mean()) + w.mean()
    return abs(crop.real) ** 2.5 + abs(crop.imag) ** 2.5 < (1 + slack) ** 2.5


def test_names_and_titles_are_unique() -> None:
    names = method_names()
    modes = {"map-fast", "map-one-pass", "map-strong"}
    assert set(names) == {*METHODS, "free-form", *modes, *ABLATIONS, *TRADE_OFF}
    methods = [create(name) for name in names]
    assert [method.name for method in methods] == names
    assert len({method.title for method in methods}) == len(set(names)) == len(names)


def test_an_unknown_name() -> None:
    with pytest.raises(UnknownOptionError, match=r"`method` must be one of map.*got 'foo'"):
        create("foo")


def test_one_set_of_options_serves_all() -> None:
    options = {"eps": 4, "steps": 3, "sigma": 0.2, "block": 0.3, "settings": QUICK}
    methods = {name: create(name, **options) for name in method_names()}
    assert all(methods[name].eps == 4 and methods[name].steps == 3 for name in NOISE)
    assert methods["make-up"].steps == 3
    assert methods["blur"].sigma == 0.2
    assert methods["mosaic"].block == 0.3
    assert methods["map-no-ema"].settings == QUICK


@pytest.mark.parametrize(
    ("name", "option", "value", "rule"),
    [
        ("pgd", "eps", 0.5, r"in \[1, 255\]"),
        ("pgd", "eps", 256, r"in \[1, 255\]"),
        ("mifgsm", "steps", 0, ">= 1"),
        ("make-up", "steps", 0, ">= 1"),
        ("blur", "sigma", 0, "> 0"),
        ("mosaic", "block", -1, "> 0"),
    ],
)
def test_options_outside_their_range(name: str, option: str, value: float, rule: str) -> None:
    with pytest.raises(ValueError, match=f"`{option}` must be {rule}, got {value}"):
        create(name, **{option: value})


@pytest.mark.parametrize("name", METHODS)
def test_every_method_changes_the_face_only(
    name: str, tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    before = photo.copy()
    one = task(photo)
    result = create(name, steps=2, settings=FREE).protect(tiny_pipeline, one)
    assert result.dtype == np.uint8
    assert result.shape == photo.shape
    np.testing.assert_array_equal(photo, before)
    assert not np.shares_memory(result, photo)
    outside = ~mask_by_hand(tiny_pipeline, photo, ONE_PIXEL)
    assert 0.3 < outside.mean() < 0.8
    np.testing.assert_array_equal(result[outside], photo[outside])
    assert (result != photo).any() == (name != "none")


@pytest.mark.parametrize("name", NOISE)
def test_noise_has_no_feather(name: str, tiny_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    """The baselines aren't held back by MAP's fade towards the crop's border."""
    result = create(name).protect(tiny_pipeline, task(photo))
    change = np.abs(result.astype(int) - photo).max(-1)
    core, all_of_it = (mask_by_hand(tiny_pipeline, photo, slack) for slack in (-0.35, -0.02))
    rim = all_of_it & ~core
    assert change[rim].mean() > 0.5 * change[core].mean() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["map", *NOISE])
def test_identity_loss_goes_down(name: str, tiny_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    one = task(photo)
    method = create(name, settings={**FREE, "refine_steps": 8})
    before, after = (
        loss_of(tiny_pipeline, one, result)
        for result in (photo, method.protect(tiny_pipeline, one))
    )
    assert after < before - 0.02


@pytest.mark.slow
def test_noise_on_a_large_face(tiny_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    """The region is reduced; the noise is enlarged and still within its budget and effective."""
    large = np.array(Image.fromarray(photo).resize((1024, 1024), Image.Resampling.BICUBIC))
    assert find_face(tiny_pipeline, large).region.scale[0] < 0.5
    one = task(large)
    result = create("mifgsm", eps=5).protect(tiny_pipeline, one)
    change = result.astype(int) - large
    assert np.abs(change).max() == 5
    outside = ~mask_by_hand(tiny_pipeline, large, ONE_PIXEL)
    assert not change[outside].any()
    assert loss_of(tiny_pipeline, one, result) < loss_of(tiny_pipeline, one, large) - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_result(name: str, tiny_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    method = create(name, steps=2, settings=QUICK)
    first = method.protect(tiny_pipeline, task(photo))
    state = torch.get_rng_state()
    np.random.seed(5)
    np.testing.assert_array_equal(method.protect(tiny_pipeline, task(photo)), first)
    assert torch.equal(torch.get_rng_state(), state)
    other = method.protect(tiny_pipeline, task(photo, seed=1))
    random = name not in ("mifgsm", "blur", "mosaic", "none")
    if name != "map":  # one step of MAP with tiny weights may round to the same
        assert (other != first).any() == random


@pytest.mark.parametrize("name", METHODS[:-1])
def test_no_face(name: str, tiny_pipeline: MAPPipeline) -> None:
    with pytest.raises(NoFaceError, match="`image` must show a face"):
        create(name, settings=QUICK).protect(tiny_pipeline, task(GREY))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["map", "pgd"])
def test_target(name: str, tiny_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    """A picture or a name; the same rules for MAP and the baselines."""
    method = create(name, steps=2, settings=QUICK)
    first, *others, _ = (
        method.protect(tiny_pipeline, task(photo, target=target))
        for target in ("first", "second", photo[:, ::-1].copy(), "auto")
    )
    if name == "pgd":  # one step of MAP with tiny weights may round to the same
        assert all((other != first).any() for other in others)
    with pytest.raises(UnknownOptionError, match="`target` must be"):
        method.protect(tiny_pipeline, task(photo, target="nobody"))
    with pytest.raises(NoFaceError, match="`target` must show a face"):
        method.protect(tiny_pipeline, task(photo, target=GREY))


@pytest.mark.parametrize("name", ["map", "tidim"])
@pytest.mark.parametrize(
    ("option", "value"), [("emotion", "bored"), ("surrogates", ("arcface",)), ("surrogates", ())]
)
def test_bad_task(
    name: str, option: str, value: object, tiny_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    with pytest.raises(UnknownOptionError, match=f"`{option}` must (be one|name some) of"):
        create(name, settings=QUICK).protect(tiny_pipeline, task(photo, **{option: value}))


def test_one_pass_needs_a_network_and_a_target_it_knows(
    tiny_pipeline: MAPPipeline, editing_pipeline: MAPPipeline, photo: np.ndarray
) -> None:
    method = create("map-one-pass")
    with pytest.raises(UnknownOptionError, match="`targets` must be auto or built-in"):
        method.protect(editing_pipeline, task(photo, target=photo))
    with pytest.raises(UnknownOptionError, match="trained on none but dlib_resnet for"):
        method.protect(editing_pipeline, task(photo, surrogates=("dlib_resnet",)))
    with pytest.raises(UnknownOptionError, match="got none"):
        method.protect(tiny_pipeline, task(photo))
    result = method.protect(editing_pipeline, task(photo))
    assert (result != photo).any()


def test_the_target_is_the_pipelines(tiny_pipeline: MAPPipeline, photo: np.ndarray) -> None:
    """What the report of the pipeline names is what the baselines aim at."""
    output = tiny_pipeline(photo, target="auto", **QUICK)
    place = find_face(tiny_pipeline, photo)
    found = find_target(tiny_pipeline, task(photo, target="auto"), place)
    assert found.name == output.reports[0][0].target
    assert place.face.box == pytest.approx(output.reports[0][0].box)


def test_only_the_surrogates_choose_the_target(photo: np.ndarray) -> None:
    pipe = build_tiny_pipeline()
    place = find_face(pipe, photo)
    source = pipe.embed(pipe.view(photo, place.face.landmarks))
    for choice, name in enumerate(("dlib_resnet", "mobilefacenet")):
        bank = pipe.targets.embeddings(name).copy_(-source[name].expand(3, -1))
        bank[choice] = 0  # the most alike of the three

    def chosen(*surrogates: str) -> str:
        one = task(photo, target="auto", surrogates=surrogates)
        name = find_target(pipe, one, place).name
        output = pipe(photo, target="auto", surrogates=list(surrogates), **QUICK)
        assert output.reports[0][0].target == name
        return name

    assert chosen("dlib_resnet") == "first"
    assert chosen("mobilefacenet") == "second"


def test_only_the_surrogates_count(photo: np.ndarray) -> None:
    """A recogniser that is left out has no influence, whatever it thinks."""
    pipe = build_tiny_pipeline()

    def protect(surrogate: str) -> np.ndarray:
        return create("tipim", steps=3).protect(pipe, task(photo, surrogates=(surrogate,)))

    first = protect("dlib_resnet")
    for parameter in pipe.recognisers["mobilefacenet"].parameters():
        parameter.data.mul_(-1)
    np.testing.assert_array_equal(protect("dlib_resnet"), first)
    assert (protect("mobilefacenet") != first).any()


@pytest.mark.parametrize("scale", [1, 2])
def test_blur_is_gaussian_and_relative_to_the_face(
    tiny_pipeline: MAPPipeline, photo: np.ndarray, scale: int
) -> None:
    image = np.array(Image.fromarray(photo).resize((256 * scale, 256 * scale)))
    result = create("blur", sigma=0.2).protect(tiny_pipeline, task(image))
    place = find_face(tiny_pipeline, image)
    left, right = place.face.landmarks[:2]
    assert place.eye_distance == pytest.approx(float(np.linalg.norm(right - left)), rel=0.1)
    blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.2 * place.eye_distance))
    # Well inside, where the photo's surroundings beyond the region don't matter.
    inside = mask_by_hand(tiny_pipeline, image, -0.5)
    assert inside.sum() > 1000
    assert np.abs(result.astype(int) - np.asarray(blurred))[inside].max() <= 1


@pytest.mark.parametrize("scale", [1, 2])
def test_mosaic_squares(tiny_pipeline: MAPPipeline, photo: np.ndarray, scale: int) -> None:
    """As many over the face whatever the size of the photo, each of one colour."""
    size = (256 * scale, 256 * scale)
    image = np.array(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC))
    result = create("mosaic", block=0.5).protect(tiny_pipeline, task(image))
    inside = mask_by_hand(tiny_pipeline, image, -0.2)
    colours = len(np.unique(result[inside], axis=0))
    squares = inside.sum() / (0.5 * find_face(tiny_pipeline, image).eye_distance) ** 2
    assert squares < colours < 2 * squares  # those at the rim are cut


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_on_a_gpu(name: str, photo: np.ndarray) -> None:
    pipe = build_tiny_pipeline().to("cuda")
    result = create(name, steps=3, settings=QUICK).protect(pipe, task(photo, target=photo))
    assert result.shape == photo.shape
    if name in NOISE:
        assert 0 < np.abs(result.astype(int) - photo).max() <= 8
