"""Comparing two photos with every recogniser.

Only forward passes: on a CPU copy of the networks (`judging_copy`) it needs no GPU time.
"""

import copy
from dataclasses import dataclass

import torch

from map_pipeline.config import FAR
from map_pipeline.errors import naming_photo
from map_pipeline.faces.detect import select_faces
from map_pipeline.images import ImageInput, load_image, to_array
from map_pipeline.measure import View
from map_pipeline.pipeline import MAPPipeline


@dataclass(frozen=True)
class Comparison:
    """What one recogniser says about two photos.

    Attributes:
        name: component name; title: what people call it; family: kind of network.
        similarity: cosine of the two largest faces, in [-1,1].
        threshold: similarity from which on they count as one person (FAR 1 %); None if unknown.
        matches: `similarity` reaches it; None without threshold.
    """

    name: str
    title: str
    family: str
    similarity: float
    threshold: float | None
    matches: bool | None


def judging_copy(pipe: MAPPipeline) -> MAPPipeline:
    """A pipeline that can measure but not protect, with copies of the networks as they are now.

    On ZeroGPU the main process has no GPU: copied before `pipe.to("cuda")`, these networks stay
    on the CPU and compare photos without asking for GPU time.
    """
    settings = ("alignment_template", "surrogates", "target_ranker", "detector", "weights_date")
    return MAPPipeline(
        unet=None,
        scheduler=pipe.scheduler,
        targets=copy.deepcopy(pipe.targets),
        recognisers=copy.deepcopy(pipe.recognisers),
        **{name: pipe.config[name] for name in settings},
    )


def compare_photos(pipe: MAPPipeline, first: ImageInput, second: ImageInput) -> list[Comparison]:
    """Compare the largest faces of two photos with every recogniser.

    Raises:
        MAPError: a photo can't be read or shows no face; the text says which of the two.
    """
    views = [
        largest_face(pipe, photo, name) for photo, name in ((first, "first"), (second, "second"))
    ]
    return [_compare(name, pipe, *views) for name in pipe.recognisers]


def largest_face(pipe: MAPPipeline, photo: ImageInput, name: str) -> View:
    """The largest face of a photo.

    Args:
        name: what an error calls the photo, such as "first".

    Raises:
        MAPError: it can't be read or shows no face.
    """
    with naming_photo(f"the {name} photo"):
        pixels = to_array(load_image(photo))
        [face] = select_faces(pipe.find_faces(pixels), "largest")
    return pipe.view(pixels, face.landmarks)


@torch.no_grad()
def _compare(name: str, pipe: MAPPipeline, first: View, second: View) -> Comparison:
    net = pipe.recognisers[name]
    similarity = float(net(*first)[0] @ net(*second)[0])
    limit = net.threshold(FAR) if net.config.thresholds else None
    return Comparison(
        name=name,
        title=net.config.title,
        family=net.config.family,
        similarity=similarity,
        threshold=limit,
        matches=None if limit is None else similarity >= limit,
    )
