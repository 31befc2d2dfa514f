"""Rows of a made-up evaluation, with plausible similarities."""

import json
from collections.abc import Sequence

import numpy as np

from map_pipeline.config import EMOTIONS
from map_pipeline.evaluation.results import PhotoRow, Row

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
# The verdict of a recogniser that was left out: the photo dodges, and impersonates.
ROW = Row(
    photo="001",
    method="map",
    left_out="one",
    recogniser="one",
    used=False,
    transformation="none",
    found=True,
    target_clean=0.1,
    target_protected=0.5,
    person_clean=0.9,
    person_protected=0.2,
    rank_clean=1,
    rank_protected=3,
)

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
                _, power, ssim, seconds = METHODS[method]
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
                        face_psnr=30.0,
                        face_ssim=0.9,
                        patches=0.1,
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
