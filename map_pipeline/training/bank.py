"""Build the built-in targets: one composite a group, unless it passes for too many strangers.

map-protect train composites --faces faces128.zip --out DIR --impostors DIR
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from map_pipeline.config import FAR
from map_pipeline.errors import MAPError, NoFaceError
from map_pipeline.faces.align import arcface_template, extract_region
from map_pipeline.faces.detect import BundledDetector
from map_pipeline.identity.recognisers import FaceRecogniser, RecogniserEnsemble
from map_pipeline.identity.targets import TargetBank
from map_pipeline.images import load_image, to_array, to_tensor
from map_pipeline.training.candidates import GROUPS, SIZE, Candidate, Group, find_candidates
from map_pipeline.training.composites import TEMPLATE_RAISE, Composite, average_faces
from map_pipeline.training.faces import is_picture, read_files, read_labels

FACES_PER_COMPOSITE = (12, 10, 8)  # tried in turn
MIN_FACES_PER_COMPOSITE = 8
POOL_FACTOR = 1.6  # faces warped per face averaged: the least typical ones are left out
ATTEMPTS = 60  # other subsets tried for a group whose composite resembles strangers


def build_bank(
    faces: Path,
    out: Path,
    checkpoint: Path,
    impostors: Path | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> TargetBank:
    """Build and check the composites of all groups and write those that pass to `out`.

    Args:
        faces: zip or folder of aligned faces with `labels.jsonl`.
        checkpoint: folder of the pipeline whose recognisers check them.
        impostors: zip or folder of photos of strangers, whom no composite may pass for.
        say: takes one line a group, and the check sums of the files at the end.

    Raises:
        MAPError: no composite passes.
    """
    detector = BundledDetector()
    recognisers = dict(RecogniserEnsemble.from_pretrained(checkpoint / "recognisers").items())
    strangers = {}
    if impostors is not None:
        strangers = embed_strangers(impostors, detector, recognisers)
    checked = {name: recognisers[name] for name in strangers}
    files, labels = dict(read_files(faces, is_picture)), read_labels(faces)

    composites = []
    for index, group in enumerate(GROUPS):
        generator = np.random.default_rng([seed, index])
        candidates = find_candidates(files, labels, group, detector, generator)
        composite = build_composite(group, candidates, strangers, checked, generator)
        say(_table_line(group, len(candidates), composite))
        if composite is not None and composite.passes:
            composites.append(composite)
    if not composites:
        raise MAPError("No composite passed; use more faces or another seed.")
    bank = save_bank(out, composites, recognisers)
    for path in sorted(out.iterdir()):
        say(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}")
    return bank


def build_composite(
    group: Group,
    candidates: Sequence[Candidate],
    strangers: Mapping[str, Tensor],
    recognisers: Mapping[str, FaceRecogniser],
    generator: np.random.Generator,
) -> Composite | None:
    """The first composite of a group that passes for nobody else, or None.

    The first attempt takes the best candidates, further ones random subsets of the better two
    thirds.
    """
    if len(candidates) < MIN_FACES_PER_COMPOSITE:
        return None
    most = max(round(len(candidates) / POOL_FACTOR), MIN_FACES_PER_COMPOSITE)
    best = None
    for attempt in range(ATTEMPTS):
        keep = min(FACES_PER_COMPOSITE[attempt % len(FACES_PER_COMPOSITE)], most)
        pool_size = min(round(keep * POOL_FACTOR), len(candidates))
        better = max(len(candidates) * 2 // 3, pool_size)
        chosen = np.arange(pool_size)
        if attempt:
            chosen = generator.choice(better, pool_size, replace=False)
        pool = [candidates[i] for i in chosen]
        picture, members = average_faces(
            torch.stack([c.image for c in pool]),
            torch.stack([c.landmarks68 for c in pool]),
            arcface_template(SIZE, TEMPLATE_RAISE),
            keep,
        )
        picture = (picture * 255).round() / 255  # measure what is going to be stored
        rates = impostor_rates(picture[None], strangers, recognisers)
        composite = Composite(
            group,
            picture,
            tuple(pool[i].file for i in members.tolist()),
            {name: float(rate[0]) for name, rate in rates.items()},
        )
        if composite.passes:
            return composite
        best = min(best or composite, composite, key=lambda c: c.excess)
    return best


def impostor_rates(
    composites: Tensor, strangers: Mapping[str, Tensor], recognisers: Mapping[str, FaceRecogniser]
) -> dict[str, Tensor]:
    """Recogniser name -> share `[N]` of strangers that match each composite at FAR 1 %.

    Args:
        composites: `[N,3,S,S]` in [0,1].
        strangers: recogniser name -> embeddings `[M,D]`.
        recognisers: by name.
    """
    rates = {}
    for name, recogniser in recognisers.items():
        cosines = embed_composites(composites, recogniser) @ strangers[name].T
        rates[name] = (cosines >= recogniser.threshold(FAR)).float().mean(1)
    return rates


def embed_composites(composites: Tensor, recogniser: FaceRecogniser) -> Tensor:
    """Embeddings `[N,D]` of aligned pictures `[N,3,S,S]` in [0,1], as `MAPPipeline` sees them."""
    template = arcface_template(composites.shape[-1], TEMPLATE_RAISE)
    with torch.no_grad():
        return recogniser(composites, template.expand(len(composites), -1, -1)).float()


def embed_strangers(
    source: Path, detector: BundledDetector, recognisers: Mapping[str, FaceRecogniser]
) -> dict[str, Tensor]:
    """Recogniser name -> embeddings `[M,D]` of the largest face of each picture in `source`.

    Raises:
        NoFaceError: no picture shows a face.
    """
    embeddings: dict[str, list[Tensor]] = {name: [] for name in recognisers}
    for _, content in read_files(source, is_picture):
        photo = to_array(load_image(content))
        faces = detector.detect(photo)
        if not faces:
            continue
        region = extract_region(to_tensor(photo), torch.as_tensor(faces[0].landmarks))
        with torch.no_grad():
            for name, recogniser in recognisers.items():
                embeddings[name].append(recogniser(region.image, region.landmarks[None]).float())
    if not all(embeddings.values()):
        raise NoFaceError(f"`impostors` must show faces, got none in {source}.")
    return {name: torch.cat(parts) for name, parts in embeddings.items()}


def save_bank(
    out: Path, composites: Sequence[Composite], recognisers: Mapping[str, FaceRecogniser]
) -> TargetBank:
    """Write the targets component with embeddings of each recogniser, and return it."""
    pictures = torch.stack([composite.picture for composite in composites])
    embeddings = {name: embed_composites(pictures, net) for name, net in recognisers.items()}
    bank = TargetBank(
        names=[one.group.name for one in composites],
        descriptions=[one.group.describe(len(one.members)) for one in composites],
        image_size=SIZE,
        embedding_dims={name: value.shape[1] for name, value in embeddings.items()},
    )
    bank.images.copy_((pictures * 255).round().to(torch.uint8))
    for name, value in embeddings.items():
        bank.get_buffer(f"embedding_{name}").copy_(value)
    bank.save_pretrained(out)
    return bank


def _table_line(group: Group, candidates: int, composite: Composite | None) -> str:
    if composite is None:
        return f"{group.name:20} {candidates:3} candidates: too few"
    rates = "  ".join(f"{name} {rate:6.1%}" for name, rate in composite.impostor_rates.items())
    verdict = "kept" if composite.passes else "dropped"
    members = f"{len(composite.members):2} of {candidates:3} faces"
    return f"{group.name:20} {members}  {rates}  {verdict}"
