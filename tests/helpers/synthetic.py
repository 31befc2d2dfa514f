"""A made-up evaluation: rows with plausible similarities, and the summary that belongs to them.

The rows are invented; what is told about them comes from the package, as in a real run.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from map_pipeline.cli.evaluate import config_of
from map_pipeline.cli.main import build_parser
from map_pipeline.config import EMOTIONS
from map_pipeline.evaluation.dataset import Problem
from map_pipeline.evaluation.methods import trade_off
from map_pipeline.evaluation.results import PhotoRow, Row
from map_pipeline.evaluation.summary import Context, summarise, to_json
from map_pipeline.images import save_image, to_pil

TITLES = {
    "dlib_resnet": ("dlib ResNet-29", 0.911),
    "mobilefacenet": ("MobileFaceNet", 0.267),
    "faceres": ("FaceRes", 0.561),
    "mobileface": ("MobileFace", 0.32),
}
ROTATING = ("dlib_resnet", "mobilefacenet", "faceres")
# Method -> title, how far the similarities move, SSIM, seconds.
METHODS = {
    "map": ("MAP", 1.0, 0.952, 19.0),
    "mifgsm": ("MI-FGSM, eps 8/255", 0.55, 0.931, 4.1),
    "tidim": ("TI-DIM, eps 8/255", 0.65, 0.935, 5.0),
    "pgd": ("PGD, eps 8/255", 0.4, 0.948, 4.0),
    "tipim": ("TIP-IM, eps 8/255", 0.7, 0.94, 6.3),
    "blur": ("Gaussian blur", 0.5, 0.88, 0.1),
}


def _reach(name: str) -> tuple[float, float]:
    """How far the similarities move, and SSIM, at a strength."""
    percent = int(name.rsplit("-", 1)[1])
    return (
        (percent / 100, 0.98 - percent / 1500)
        if "strength" in name
        else (0.9, 0.95 - percent / 1000)
    )


ABLATED = {
    "map-no-projection": ("MAP without projection", 0.85, 0.953, 18.0),
    "map-no-ema": ("MAP without EMA", 0.98, 0.952, 19.0),
    "map-identity-only": ("MAP, identity only", 1.05, 0.957, 14.0),
    "map-expression-only": ("MAP, expression only", 0.1, 0.966, 9.0),
}
# The trade-off: the stronger, the better protected and the more changed.
VARIED = {name: (method.title, *_reach(name), 5.0) for name, method in trade_off.VARIED.items()}
STRENGTH = {
    "none": 1.0,
    "share": 0.93,
    "jpeg90": 0.99,
    "jpeg75": 0.96,
    "jpeg50": 0.9,
    "resize50": 0.95,
    "resize25": 0.8,
    "blur": 0.85,
    "noise": 0.9,
    "squeeze4": 0.97,
    "grey": 0.92,
    "purify200": 0.55,
}
AGES = ("20-39", "40-59", "60+")


ALL = METHODS | ABLATED | VARIED


def make_rows(
    people: Sequence[str], methods: Sequence[str], styles: Sequence[str]
) -> tuple[list[Row], list[PhotoRow]]:
    rng = np.random.default_rng(0)
    rows, photos = [], []
    for index, person in enumerate(people):
        left_out = ROTATING[index % 3]
        for style in styles:
            name = person if style == "plain" else f"{person}@{style}"
            for method in methods:
                _, power, ssim, seconds = ALL[method]
                emotion = EMOTIONS[index % 7]
                lands = rng.random() < (0.9 if method.startswith("map") else 0.3)
                photos.append(
                    PhotoRow(
                        photo=name,
                        method=method,
                        left_out=left_out,
                        style=style,
                        status="ok",
                        psnr=float(rng.normal(30 + 80 * (ssim - 0.95), 1.5)),
                        ssim=float(rng.normal(ssim, 0.01)),
                        ms_ssim=float(rng.normal(ssim + 0.02, 0.005)),
                        lpips=None,
                        naturalness_before=float(rng.normal(21, 1)),
                        naturalness_after=float(rng.normal(20.5, 1)),
                        seconds=float(rng.normal(seconds, seconds / 20)),
                        peak_memory_mb=1400.0,
                        unet_calls=60,
                        recogniser_calls=120,
                        emotion=emotion,
                        emotion_before=json.dumps({"neutral": 1.0}),
                        emotion_after=json.dumps({emotion if lands else "neutral": 1.0}),
                    )
                )
                for transformation, kept in STRENGTH.items():
                    rows += _rows(rng, name, method, left_out, transformation, power * kept)
    return rows, photos


def _rows(
    rng: np.random.Generator,
    name: str,
    method: str,
    left_out: str,
    transformation: str,
    power: float,
) -> list[Row]:
    rows = []
    for recogniser, (_, limit) in TITLES.items():
        width = (1 - limit) * 0.5
        stranger, self_ = limit - 1.1 * width, limit + 0.6 * width
        noise = rng.normal(0, width * 0.3, 4)
        used = recogniser in ROTATING and recogniser != left_out
        pull = power * (1.2 if used else 1.0) * (0.4 if recogniser == "mobileface" else 1.0)
        rows.append(
            Row(
                photo=name,
                method=method,
                left_out=left_out,
                recogniser=recogniser,
                used=used,
                transformation=transformation,
                found=True,
                target_clean=float(stranger + noise[0]),
                target_protected=float(stranger + 2.0 * width * pull + noise[1]),
                person_clean=float(self_ + noise[2]),
                person_protected=float(self_ - 1.4 * width * pull + noise[3]),
                rank_clean=1,
                rank_protected=1 + int(8 * rng.random() * power),
            )
        )
    return rows


def make_thresholds(n: int) -> dict[str, dict]:
    pairs = {"impostor_pairs": n * (n - 1), "genuine_pairs": n, "genuine_matched": None}
    return {
        name: {
            "0.01": {"stored": limit, "estimated": limit + 0.008, "used": limit, **pairs},
            "0.001": {"stored": limit + 0.06, "estimated": None, "used": limit + 0.06, **pairs},
        }
        for name, (_, limit) in TITLES.items()
    }


def make_summary(
    n: int = 24,
    methods: Sequence[str] = tuple(METHODS | ABLATED),
    styles: Sequence[str] = ("plain",),
    **context: Any,
) -> tuple[dict[str, Any], list[Row], list[PhotoRow]]:
    """A summary of `n` photos, with the rows of the plain ones, as the plots get them.

    Args:
        context: further fields of `summary.Context`.
    """
    people = [f"{index:03d}" for index in range(n)]
    rows, photos = make_rows(people, methods, styles)
    arguments = ["--pairs=/somebody/secret/pairs.zip", f"--methods={','.join(METHODS)}"]
    options = build_parser().parse_args(
        ["evaluate", *arguments, f"--limit={n}", "--emotion=all", "--ablations", "--out=/tmp/dev"]
    )
    networks = {
        name: SimpleNamespace(config=SimpleNamespace(title=title))
        for name, (title, _) in TITLES.items()
    }
    detector = SimpleNamespace(name="synthetic detector")
    pipe = SimpleNamespace(
        recognisers=networks, face_detector=detector, config={"weights_date": "2026-11-23"}
    )
    defaults = {
        "attributes": {
            name: {"gender": "male" if int(name) % 2 else "female", "age": AGES[int(name) % 3]}
            for name in people
        },
        "problems": [Problem("lonely_a.png", "has no partner lonely_b.*; only impersonation")],
        "judge": "DenseNet-121",
        "absent": dict.fromkeys(("lpips", "fid"), "not computed: weights absent"),
        "probe": "another photo of the target",
    }
    summary = summarise(
        rows,
        photos,
        Context(
            config=config_of(options),
            pipe=pipe,
            titles={name: title for name, (title, *_) in ALL.items()},
            thresholds=make_thresholds(n),
            gallery_size=n + 1,
            weights={"unet": "ab" * 32, "dlib_resnet": "cd" * 32},
            **(defaults | context),
        ),
    )
    plain = [row for row in photos if row.style == "plain"]
    names = {row.photo for row in plain}
    # As it is read from the file.
    return json.loads(to_json(summary)), [row for row in rows if row.photo in names], plain


def write_photos(photos: Sequence[PhotoRow], out: Path, portrait: np.ndarray) -> None:
    """The PNG files of a run: the portrait, with a coloured square where a face would be."""
    height, width = portrait.shape[:2]
    for row in photos:
        changed = portrait.copy()
        tint = np.uint8([hash(row.method) % 60, 40, 20])
        part = np.s_[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4]
        changed[part] = changed[part] // 2 + tint
        folder = out / "photos"
        save_image(to_pil(changed), folder / row.method / f"{row.photo}.without_{row.left_out}.png")
        save_image(to_pil(portrait), folder / "source" / f"{row.photo}.png")
