"""The honest black-box test: each recogniser judges photos whose protection never used its family.

Verification protocol of the field (AMT-GAN, CLIP2Protect, DiffAM ...): a protected photo
*impersonates* if its similarity to another photo of the target reaches the recogniser's threshold
at FAR 1 %; it *dodges* if its similarity to another photo of the same person stays below it. Faces
are detected anew in every picture, as a recogniser's owner would.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from map_pipeline.errors import NoFaceError, UnknownOptionError
from map_pipeline.evaluation.data import Pair, TargetPhotos
from map_pipeline.images import load_image, to_array, to_tensor, write_atomically
from map_pipeline.losses import ssim
from map_pipeline.pipeline import FAR, MAPPipeline


@dataclass(frozen=True)
class Row:
    """One photo judged by one recogniser that was left out; similarities are cosines.

    Attributes:
        photo: name of the pair; judge: component name of the recogniser.
        threshold: similarity from which the judge takes two faces for one person (FAR 1 %).
        target_clean, target_protected, target_shared: similarity to the target's other photo of
            the original, of the protected photo, and of that after half size and JPEG 75.
        person_clean, person_protected, person_shared: the same to the person's other photo.
        found: whether a face was detected in the protected photo.
        ssim: structural similarity of the whole photo in [-1,1]; psnr in dB; seconds to protect.
    """

    photo: str
    judge: str
    threshold: float
    target_clean: float
    target_protected: float
    target_shared: float
    person_clean: float
    person_protected: float
    person_shared: float
    found: bool
    ssim: float
    psnr: float
    seconds: float


def run(
    pipe: MAPPipeline,
    pairs: Sequence[Pair],
    target: TargetPhotos,
    judges: Sequence[str],
    emotion: str,
    out: Path,
    seed: int = 0,
    **settings: object,
) -> list[Row]:
    """Protect every pair's first photo once per judge; resumes from `out/results.csv`.

    Args:
        judges: recognisers; each is left out together with the rest of its family.
        settings: further arguments of the pipeline, such as `refine_steps`.

    Raises:
        UnknownOptionError: `out` holds results of other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    check_same_run(out, {"emotion": emotion, "target": target.name, "seed": seed, **settings})
    rows = read_rows(out / "results.csv")
    done = {(row.photo, row.judge) for row in rows}
    pipe.set_progress_bar_config(disable=True)
    probe = to_array(load_image(target.probe))
    enroll = load_image(target.enroll)
    todo = [(pair, judge) for pair in pairs for judge in judges if (pair.name, judge) not in done]
    for pair, judge in tqdm(todo, unit="photo"):
        output = pipe(
            pair.first,
            emotion=emotion,
            target=enroll,
            surrogates=without_family(pipe, judge),
            generator=torch.Generator().manual_seed(seed),
            **settings,
        )
        output.images[0].save(out / f"{pair.name}_without_{judge}.png")
        seconds = output.reports[0][0].seconds
        row = judge_photo(pipe, pair, judge, to_array(output.images[0]), probe, seconds)
        append_row(out / "results.csv", row)
        rows.append(row)
    wanted = {(pair.name, judge) for pair in pairs for judge in judges}
    return [row for row in rows if (row.photo, row.judge) in wanted]


def check_same_run(out: Path, settings: dict[str, object]) -> None:
    """Note the settings in `out/settings.json`, or compare with those of the run found there."""
    path = out / "settings.json"
    text = json.dumps(settings, indent=2, default=str)
    if path.is_file() and path.read_text() != text:
        raise UnknownOptionError(f"`out` must be a new folder or hold a run of\n{text}, got {out}.")
    write_atomically(path, text.encode())


def without_family(pipe: MAPPipeline, judge: str) -> list[str]:
    """The checkpoint's surrogates that aren't of the judge's family."""
    if judge not in pipe.recognisers:
        raise UnknownOptionError(
            f"`judge` must be one of {', '.join(pipe.recognisers)}; got {judge!r}."
        )
    family = pipe.recognisers[judge].config.family
    return [n for n in pipe.surrogates if pipe.recognisers[n].config.family != family]


@torch.no_grad()
def judge_photo(
    pipe: MAPPipeline, pair: Pair, judge: str, result: np.ndarray, probe: np.ndarray, seconds: float
) -> Row:
    """Compare one protected photo `uint8 [H,W,3]` with the two it should and shouldn't match."""
    original = to_array(load_image(pair.first))
    person = embed_largest(pipe, judge, to_array(load_image(pair.second)))
    target = embed_largest(pipe, judge, probe)
    clean = embed_largest(pipe, judge, original)
    protected = embed_or_none(pipe, judge, result)
    shared = embed_or_none(pipe, judge, share(result))
    first, second = to_tensor(result), to_tensor(original)
    error = float((first - second).square().mean())
    return Row(
        photo=pair.name,
        judge=judge,
        threshold=pipe.recognisers[judge].threshold(FAR),
        target_clean=float(clean @ target),
        target_protected=-1.0 if protected is None else float(protected @ target),
        target_shared=-1.0 if shared is None else float(shared @ target),
        person_clean=float(clean @ person),
        person_protected=1.0 if protected is None else float(protected @ person),
        person_shared=1.0 if shared is None else float(shared @ person),
        found=protected is not None,
        ssim=float(ssim(first, second)),
        psnr=-10 * float(np.log10(max(error, 1e-10))),
        seconds=seconds,
    )


def embed_largest(pipe: MAPPipeline, recogniser: str, photo: np.ndarray) -> torch.Tensor:
    """`[D]` embedding of the largest face of a photo `uint8 [H,W,3]`, however small.

    Raises:
        NoFaceError: the detector finds none.
    """
    faces = pipe.face_detector.detect(photo)
    if not faces:
        raise NoFaceError("`photo` must show a face, got none that the detector finds.")
    view = pipe.view(photo, faces[0].landmarks)
    return pipe.recognisers[recogniser](view.image, view.landmarks)[0].float().cpu()


def embed_or_none(pipe: MAPPipeline, recogniser: str, photo: np.ndarray) -> torch.Tensor | None:
    """Like `embed_largest`; None without a face, which the row counts as failing both tests."""
    try:
        return embed_largest(pipe, recogniser, photo)
    except NoFaceError:
        return None


def share(photo: np.ndarray) -> np.ndarray:
    """What a re-shared photo goes through: half size, then JPEG at quality 75."""
    image = Image.fromarray(photo)
    image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return to_array(Image.open(buffer))


def read_rows(path: Path) -> list[Row]:
    """Rows written by an earlier run; none if the file doesn't exist."""
    if not path.is_file():
        return []
    kinds = {field.name: field.type for field in fields(Row)}
    parse = {str: str, float: float, bool: lambda text: text == "True"}
    with path.open(newline="") as file:
        return [
            Row(**{k: parse[kinds[k]](v) for k, v in one.items()}) for one in csv.DictReader(file)
        ]


def append_row(path: Path, row: Row) -> None:
    """Add one row, with a header to a new file."""
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))


SUMMARY_HEADER = (
    "judge (left out)",
    "n",
    "impersonation",
    "after sharing",
    "dodging",
    "after sharing",
    "SSIM",
    "PSNR",
    "seconds",
)


def summarise(rows: Sequence[Row]) -> Iterator[list[str]]:
    """Table rows for `SUMMARY_HEADER`, one per judge and the mean of the judges' figures."""
    judges = list(dict.fromkeys(row.judge for row in rows))
    figures = [_figures([row for row in rows if row.judge == judge]) for judge in judges]
    counts = [str(sum(row.judge == judge for row in rows)) for judge in judges]
    for name, count, values in zip(judges, counts, figures, strict=True):
        yield [name, count, *_format(values)]
    yield ["mean", str(len(rows)), *_format(np.mean(figures, axis=0))]


def _figures(rows: Sequence[Row]) -> list[float]:
    def share_of(test: list[bool]) -> float:
        return 100 * sum(test) / len(test)

    return [
        share_of([r.target_clean >= r.threshold for r in rows]),
        share_of([r.target_protected >= r.threshold for r in rows]),
        share_of([r.target_shared >= r.threshold for r in rows]),
        share_of([r.person_clean < r.threshold for r in rows]),
        share_of([r.person_protected < r.threshold for r in rows]),
        share_of([r.person_shared < r.threshold for r in rows]),
        float(np.mean([r.ssim for r in rows])),
        float(np.mean([r.psnr for r in rows])),
        float(np.median([r.seconds for r in rows])),
    ]


def _format(values: Sequence[float]) -> list[str]:
    clean_t, target, target_shared, clean_p, person, person_shared, similarity, psnr, time = values
    return [
        f"{clean_t:.1f} -> {target:.1f} %",
        f"{target_shared:.1f} %",
        f"{clean_p:.1f} -> {person:.1f} %",
        f"{person_shared:.1f} %",
        f"{similarity:.3f}",
        f"{psnr:.1f} dB",
        f"{time:.1f}",
    ]
