"""Figures that other methods' papers report: context, and never a comparison.

Methods that can't run here (weights in private drives, removed models, GPUs of 80 GB) are known by
their published figures only. They come from other photos, recognisers and thresholds, so they stand
in tables of their own under `NOTE` and are never plotted beside measured ones.

A `source` is "primary" for the authors' own paper, repository or measurement, or "secondary" for a
summary of a paper by others, with the key of `SOURCES`. None means that the source doesn't tell.
"""

from dataclasses import dataclass

NOTE = (
    "Published figures, not measured by us; other photos, recognisers and thresholds. They can't "
    "be compared with the results of this run."
)
SOURCES = {
    "a": "Paper Notes on Salar et al., CVPR 2025 (arXiv:2503.10350)",
    "b": "repository of AMT-GAN, issue 18, with an FID of 27 for the released code",
    "c": "PerceptFace, tables I and II: third-party measurements of AMT-GAN and Fawkes",
}


@dataclass(frozen=True)
class Impersonation:
    """Impersonation success at FAR 1 %, in percent, and quality, as published.

    Attributes:
        method: its name.
        irse50, ir152, facenet, mobileface: on CelebA-HQ, each recogniser left out in turn.
        average: over the four recognisers on CelebA-HQ and LADN.
        source: see the module.
        fid, psnr, ssim: of protected photos; PSNR in dB. Which target they are for is rarely told.
    """

    method: str
    irse50: float
    ir152: float
    facenet: float
    mobileface: float
    average: float
    source: str
    fid: float | None = None
    psnr: float | None = None
    ssim: float | None = None


@dataclass(frozen=True)
class Dodging:
    """Dodging success at FAR 0.1 %, in percent, protected photo against its own original.

    Attributes:
        method: its name; facenet, ir152, irse50, mobileface: local recognisers on CelebA-HQ.
        amazon, facepp: commercial services.
        source: see the module.
    """

    method: str
    facenet: float
    ir152: float
    irse50: float
    mobileface: float
    amazon: float
    facepp: float
    source: str


NOTES = "secondary (a)"
IMPERSONATION = (
    Impersonation("TIP-IM", 54.40, 37.23, 40.74, 48.72, 50.06, NOTES),
    Impersonation("DiffProtect", 67.75, 60.14, 35.19, 64.33, 51.05, NOTES, 28.29, 24.21, 0.879),
    Impersonation(
        "AMT-GAN", 76.96, 35.13, 16.62, 50.71, 52.84, "secondary (a), FID primary (b)", 34
    ),
    Impersonation("CLIP2Protect", 81.10, 48.42, 41.72, 75.26, 64.90, NOTES),
    Impersonation("DiffAM", 92.00, 63.13, 64.67, 83.35, 77.88, NOTES, 26.10, 20.53, 0.886),
    Impersonation("Salar et al.", 88.87, 67.25, 59.53, 91.57, 79.17, NOTES, 15.32, 27.72, 0.839),
)
DODGING = (
    Dodging("AMT-GAN", 62.2, 19.6, 1.7, 0.5, 41, 7, "primary (c)"),
    Dodging("Fawkes", 54.0, 7.6, 0.5, 0.2, 17, 3, "primary (c)"),
    Dodging("PerceptFace", 96.6, 98.4, 93.0, 90.7, 100, 99.5, "primary (c)"),
)
IMPERSONATION_HEADER = (
    *("method", "IRSE50", "IR152", "FaceNet", "MobileFace", "average"),
    *("FID", "PSNR, dB", "SSIM", "source"),
)
DODGING_HEADER = (
    *("method", "FaceNet", "IR152", "IRSE50", "MobileFace", "Amazon", "Face++"),
    "source",
)


def impersonation_rows() -> list[list[str]]:
    """Table rows for `IMPERSONATION_HEADER`."""
    return [
        [
            one.method,
            *(f"{v:.2f}" for v in (one.irse50, one.ir152, one.facenet, one.mobileface)),
            f"{one.average:.2f}",
            "-" if one.fid is None else f"{one.fid:.2f}".removesuffix(".00"),
            "-" if one.psnr is None else f"{one.psnr:.2f}",
            "-" if one.ssim is None else f"{one.ssim:.3f}",
            one.source,
        ]
        for one in IMPERSONATION
    ]


def dodging_rows() -> list[list[str]]:
    """Table rows for `DODGING_HEADER`."""
    return [
        [
            one.method,
            *(f"{v:.1f}" for v in (one.facenet, one.ir152, one.irse50, one.mobileface)),
            *(f"{v:g}" for v in (one.amazon, one.facepp)),
            one.source,
        ]
        for one in DODGING
    ]
