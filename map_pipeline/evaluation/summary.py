"""From rows to `summary.json` and the tables on the terminal; no figure comes from elsewhere.

A *rate* is `{"rate", "low", "high", "n"}`: a share in [0,1] with the bounds of its 95 % Wilson
interval and the number of trials. A *mean* is `{"mean", "std", "n"}` with the sample standard
deviation.
"""

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn import Module

from map_pipeline import __version__
from map_pipeline.evaluation.dataset import Problem
from map_pipeline.evaluation.expression_judge import expression_summary
from map_pipeline.evaluation.gallery import Gallery
from map_pipeline.evaluation.methods import ABLATIONS, TRADE_OFF
from map_pipeline.evaluation.metrics import Fid
from map_pipeline.evaluation.results import PhotoRow, Row
from map_pipeline.evaluation.runner import photo_file
from map_pipeline.evaluation.verification import (
    identification,
    rate,
    threshold_at_far,
    verification,
)
from map_pipeline.images import load_image, to_array
from map_pipeline.pipeline import MAPPipeline
from map_pipeline.report import format_table

PACKAGES = ("torch", "diffusers", "accelerate", "torchmetrics", "numpy", "pillow", "onnxruntime")
MEAN_COLUMNS = ("psnr", "ssim", "ms_ssim", "lpips", "naturalness_before", "naturalness_after")

Thresholds = dict[str, dict[str, dict[str, Any]]]
"""Recogniser -> FAR as text -> "stored", "estimated", "used" and what the estimate rests on."""


@dataclass(frozen=True)
class Context:
    """What a summary tells besides the rows' figures.

    Attributes:
        config: the run's options; pipe: for titles.
        titles: method -> title; thresholds: see `estimate_thresholds`.
        gallery_size: faces that a search goes through.
        weights: component -> SHA-256, see `weight_hashes`.
        attributes: photo -> attribute -> group; problems: what couldn't be used.
        judge: title of the expression judge, None without one.
        absent: metric -> why it wasn't computed ("lpips", "fid").
        probe: what photos were compared with to judge impersonation.
    """

    config: Mapping[str, Any]
    pipe: MAPPipeline
    titles: Mapping[str, str]
    thresholds: Thresholds
    gallery_size: int
    weights: Mapping[str, str]
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    problems: Sequence[Problem] = ()
    judge: str | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    probe: str = ""


def estimate_thresholds(
    pipe: MAPPipeline, gallery: Gallery, fars: Sequence[float], prefer: str = "stored"
) -> Thresholds:
    """Thresholds stored with the recognisers beside those that the clean pairs give.

    Args:
        fars: false accept rates.
        prefer: "stored" or "estimated": which is used where both are known.

    Returns:
        "stored", "estimated" and "used" are None where unknown; "genuine_matched" is the rate of
        clean pairs that match at the one used.
    """
    found: Thresholds = {}
    for name, net in pipe.recognisers.items():
        strangers, same = gallery.pairs(name)
        found[name] = {}
        for far in fars:
            stored = net.config.thresholds.get(f"{far:g}")
            estimated = threshold_at_far(strangers, far)
            first, second = (estimated, stored) if prefer == "estimated" else (stored, estimated)
            used = second if first is None else first
            found[name][f"{far:g}"] = {
                "stored": stored,
                "estimated": estimated,
                "used": used,
                "impostor_pairs": len(strangers),
                "genuine_pairs": len(same),
                "genuine_matched": None if used is None else rate(same >= used).to_dict(),
            }
    return found


def summarise(
    rows: Sequence[Row],
    photos: Sequence[PhotoRow],
    context: Context,
    fid: Mapping[str, float | str] | None = None,
) -> dict[str, Any]:
    """Everything that is told about a run, as plain values for JSON.

    Args:
        rows: of `results.csv`; photos: of `photos.csv`.
        fid: method -> Fréchet distance, or why there is none.
    """
    plain = [row for row in photos if row.style == "plain"]
    titles = context.titles
    return {
        "config": dict(context.config),
        "versions": _versions(),
        "detector": context.pipe.face_detector.name,
        "weights": dict(context.weights),
        "weights_date": context.pipe.config.get("weights_date"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "photos": len({row.photo for row in plain}),
        "probe": context.probe,
        "problems": [asdict(problem) for problem in context.problems],
        "thresholds": context.thresholds,
        "methods": {
            method: {
                "title": titles.get(method, method),
                **_method_summary(
                    [row for row in rows if row.method == method],
                    [row for row in photos if row.method == method],
                    context,
                    (fid or {}).get(method, context.absent.get("fid", "")),
                ),
            }
            for method in dict.fromkeys(row.method for row in photos)
        },
        "ablations": _ablations(rows, photos, context),
    }


def _ablations(
    rows: Sequence[Row], photos: Sequence[PhotoRow], context: Context
) -> dict[str, dict[str, Any]]:
    """MAP and its ablations on the photos that all of them protected, however many MAP did."""
    found = {row.method for row in photos}
    methods = [name for name in ABLATIONS if name in found]
    if len(methods) < 2:
        return {}
    done = [{(r.photo, r.left_out) for r in photos if r.method == name} for name in methods]
    common = set.intersection(*done)
    shared = [row for row in rows if (row.photo, row.left_out) in common]
    shared_photos = [row for row in photos if (row.photo, row.left_out) in common]
    return {
        name: _method_summary(
            [row for row in shared if row.method == name],
            [row for row in shared_photos if row.method == name],
            context,
            context.absent.get("fid", ""),
        )
        for name in methods
    }


def compute_fid(out: Path, photos: Sequence[PhotoRow], network: Module) -> dict[str, Any]:
    """Method -> Fréchet distance between its sources and results, or why there is none.

    Args:
        out: folder of the run; network: see `quality.Fid`.
    """
    found = {}
    for method in dict.fromkeys(row.method for row in photos):
        distance = Fid(network)
        for row in photos:
            if (row.method, row.style, row.status) == (method, "plain", "ok"):
                files = (
                    photo_file(out, "source", row.photo),
                    photo_file(out, method, row.photo, row.left_out),
                )
                distance.update(*(to_array(load_image(file)) for file in files))
        found[method] = distance.compute()
    return found


def weight_hashes(pipe: MAPPipeline, checkpoint: Path | None) -> dict[str, str]:
    """Component -> SHA-256: of its weight files, or of its tensors where there is no file."""
    hashes = {}
    for name, component in pipe.components.items():
        if not isinstance(component, Module):
            continue
        digest = hashlib.sha256()
        files = sorted((checkpoint / name).glob("*.safetensors")) if checkpoint else []
        for file in files:
            digest.update(file.read_bytes())
        if not files:
            for key, tensor in sorted(component.state_dict().items()):
                digest.update(key.encode())
                digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        hashes[name] = digest.hexdigest()
    return hashes


def _method_summary(
    rows: Sequence[Row], photos: Sequence[PhotoRow], context: Context, fid: float | str
) -> dict[str, Any]:
    styles = {row.photo: row.style for row in photos}
    plain = [row for row in rows if styles.get(row.photo) == "plain"]
    plain_photos = [row for row in photos if row.style == "plain"]
    done = [row for row in plain_photos if row.status == "ok"]
    left_out = [row for row in plain if row.recogniser == row.left_out]
    judged = [row for row in plain_photos if row.emotion_before]
    emotion = str(context.config.get("emotion", ""))
    return {
        "verification": _verification(plain, context),
        "mean_unseen": _mean_unseen(left_out, context.thresholds),
        "identification": _identification(plain, context),
        "identification_unseen": {
            **identification([row for row in left_out if row.transformation == "none"]),
            "gallery": context.gallery_size,
        },
        "quality": _quality(done, context.absent.get("lpips", ""), fid),
        "expression": (
            expression_summary(judged, context.judge, emotion) if judged and context.judge else None
        ),
        "groups": _groups(plain, left_out, context),
        "styles": _styles(rows, photos, context.thresholds),
        "facepp": _facepp(done),
        "cost": _cost(done),
        "failures": [
            {"photo": row.photo, "status": row.status} for row in photos if row.status != "ok"
        ],
    }


def _verification(rows: Sequence[Row], context: Context) -> list[dict[str, Any]]:
    """One entry per recogniser, seen or unseen, transformation and FAR."""
    entries = []
    groups = _grouped(rows, lambda row: (row.recogniser, row.used, row.transformation))
    order = list(context.pipe.recognisers)
    # A recogniser's unseen photos stand beside its others; transformations keep their order.
    for name, used, transformation in sorted(
        groups, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key[1])
    ):
        group = groups[name, used, transformation]
        for far, limits in _limits(context.thresholds).items():
            if name in limits:
                entries.append(
                    {
                        "recogniser": name,
                        "title": _recogniser_title(context.pipe, name),
                        "unseen": not used,
                        "transformation": transformation,
                        "far": far,
                        **verification(group, limits),
                    }
                )
    return entries


def _mean_unseen(left_out: Sequence[Row], thresholds: Thresholds) -> list[dict[str, Any]]:
    """Pooled over the recognisers left out in turn, each with the photos it was left out of."""
    return [
        {"transformation": transformation, "far": far, **verification(group, limits)}
        for transformation, group in _grouped(left_out, lambda row: row.transformation).items()
        for far, limits in _limits(thresholds).items()
    ]


def _identification(rows: Sequence[Row], context: Context) -> list[dict[str, Any]]:
    saved = [row for row in rows if row.transformation == "none"]
    return [
        {
            "recogniser": name,
            "title": _recogniser_title(context.pipe, name),
            "unseen": not used,
            **identification(group),
            "gallery": context.gallery_size,
        }
        for (name, used), group in _grouped(saved, lambda row: (row.recogniser, row.used)).items()
    ]


def _quality(done: Sequence[PhotoRow], lpips: str, fid: float | str) -> dict[str, Any]:
    quality: dict[str, Any] = {
        name: mean(getattr(row, name) for row in done) for name in MEAN_COLUMNS
    }
    if not quality["lpips"]["n"] and lpips:
        quality["lpips"] = lpips
    number = isinstance(fid, float)
    quality["fid"] = {"mean": fid, "std": None, "n": len(done)} if number else fid
    return quality


def _groups(plain: Sequence[Row], left_out: Sequence[Row], context: Context) -> dict[str, Any]:
    """Rates by group at the first FAR, on the recognisers left out; {} without attributes.

    Where none was left out, recognisers that are never optimised against stand in.
    """
    judged = left_out or [row for row in plain if not row.used]
    saved = [row for row in judged if row.transformation == "none"]
    limits = next(iter(_limits(context.thresholds).values()), {})
    names = dict.fromkeys(key for groups in context.attributes.values() for key in groups)
    result: dict[str, Any] = {}
    gaps: dict[str, dict[str, float | None]] = {}
    for attribute in names:
        groups = _grouped(
            [row for row in saved if attribute in context.attributes.get(row.photo, {})],
            lambda row, key=attribute: context.attributes[row.photo][key],
        )
        entries = [
            {"group": group, **verification(groups[group], limits)} for group in sorted(groups)
        ]
        if entries:
            result[attribute] = entries
            gaps[attribute] = {
                name: _largest_gap(entry[name] for entry in entries)
                for name in ("impersonation", "dodging")
            }
    return {**result, "gap": gaps} if result else {}


def _largest_gap(rates: Iterable[Mapping[str, Any]]) -> float | None:
    known = [one["rate"] for one in rates if one["n"]]
    return max(known) - min(known) if len(known) > 1 else None


def _styles(
    rows: Sequence[Row], photos: Sequence[PhotoRow], thresholds: Thresholds
) -> list[dict[str, Any]]:
    """Rates and similarity per style, at every FAR; [] if there are only plain photos."""
    by_style = _grouped(photos, lambda row: row.style)
    if set(by_style) <= {"plain"}:
        return []
    entries = []
    for style, group in by_style.items():
        names = {row.photo for row in group}
        judged = [row for row in rows if row.photo in names and row.transformation == "none"]
        unseen = [row for row in judged if row.recogniser == row.left_out]
        for far, limits in _limits(thresholds).items():
            entry = {"style": style, "far": far, **verification(unseen, limits)}
            entries.append(entry | {"ssim": mean(r.ssim for r in group if r.status == "ok")})
    return entries


def _facepp(done: Sequence[PhotoRow]) -> dict[str, Any] | None:
    """Mean confidence of Face++ before and after; None if it wasn't asked."""
    clean = [row.facepp_clean for row in done if row.facepp_clean is not None]
    after = [row.facepp_protected for row in done if row.facepp_protected is not None]
    if not clean and not after:
        return None
    return {"confidence_clean": mean(clean), "confidence_protected": mean(after)}


def _cost(done: Sequence[PhotoRow]) -> dict[str, Any]:
    if not done:
        keys = ("seconds_median", "seconds_p90", "peak_memory_mb", "unet_calls", "recogniser_calls")
        return {**dict.fromkeys(keys), "n": 0}
    seconds = [row.seconds for row in done]
    return {
        "seconds_median": float(np.median(seconds)),
        "seconds_p90": float(np.quantile(seconds, 0.9)),
        "peak_memory_mb": max(row.peak_memory_mb for row in done),
        "unet_calls": float(np.median([row.unet_calls for row in done])),
        "recogniser_calls": float(np.median([row.recogniser_calls for row in done])),
        "n": len(done),
    }


def mean(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean and sample standard deviation of the finite values; n counts only those."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return {"mean": None, "std": None, "n": 0}
    spread = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
    return {"mean": float(np.mean(known)), "std": spread, "n": len(known)}


def to_json(summary: Mapping[str, Any]) -> str:
    """The text of `summary.json`; fails rather than write a value that JSON doesn't have."""
    return json.dumps(summary, indent=2, allow_nan=False, default=str)


def _limits(thresholds: Thresholds) -> dict[str, dict[str, float]]:
    """FAR -> recogniser -> threshold in use; recognisers without one are missing."""
    fars = dict.fromkeys(far for by_far in thresholds.values() for far in by_far)
    return {
        far: {
            name: by_far[far]["used"]
            for name, by_far in thresholds.items()
            if by_far[far]["used"] is not None
        }
        for far in fars
    }


def _grouped(rows: Iterable[Any], key: Any) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _recogniser_title(pipe: MAPPipeline, name: str) -> str:
    net = pipe.recognisers.get(name)
    return name if net is None else net.config.title


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "map_pipeline": __version__}
    return versions | {package: version(package) for package in PACKAGES}


METHOD_HEADER = (
    "method",
    "photos",
    "impersonation",
    "after sharing",
    "dodging",
    "after sharing",
    "found at rank 1",
    "SSIM",
    "PSNR",
    "seconds",
    "failed",
)
RECOGNISER_HEADER = ("method", "recogniser", "optimised", "photos", "impersonation", "dodging")
THRESHOLD_HEADER = ("recogniser", "FAR", "stored", "estimated", "used", "stranger pairs", "TAR")


def to_tables(summary: Mapping[str, Any]) -> str:
    """The summary as text for a terminal: thresholds, recognisers left out, every recogniser."""
    fars = list(next(iter(summary["thresholds"].values()), {}))
    parts = ["Thresholds on cosine similarity (TAR: share of clean genuine pairs that match)"]
    parts += format_table(THRESHOLD_HEADER, list(_threshold_rows(summary)))
    for far in fars:
        parts += ["", f"Clean -> protected, FAR {_as_percent(far)}, recognisers left out (95 % CI)"]
        parts += format_table(METHOD_HEADER, list(_method_rows(summary, far)))
    for far in fars[:1]:
        parts += ["", f"Clean -> protected, FAR {_as_percent(far)}, each recogniser"]
        parts += format_table(RECOGNISER_HEADER, list(_recogniser_rows(summary, far)))
    problems = [f"  {one['name']}: {one['rule']}" for one in summary["problems"]]
    failures = [
        f"  {one['photo']} ({method}): {one['status']}"
        for method, found in summary["methods"].items()
        for one in found["failures"]
    ]
    if problems:
        parts += ["", f"Problems with the photos ({len(problems)}):", *problems]
    if failures:
        parts += ["", f"Failures, counted as not protected ({len(failures)}):", *failures]
    return "\n".join(parts)


def _threshold_rows(summary: Mapping[str, Any]) -> Iterable[list[str]]:
    for name, by_far in summary["thresholds"].items():
        for far, one in by_far.items():
            stored, estimated, used = (
                "-" if one[key] is None else f"{one[key]:.3f}"
                for key in ("stored", "estimated", "used")
            )
            pairs = str(one["impostor_pairs"])
            yield [
                name,
                _as_percent(far),
                stored,
                estimated,
                used,
                pairs,
                _percent(one["genuine_matched"]),
            ]


def _method_rows(summary: Mapping[str, Any], far: str) -> Iterable[list[str]]:
    for method in summary["methods"].values():
        found = {e["transformation"]: e for e in method["mean_unseen"] if e["far"] == far}
        plain, shared = found.get("none"), found.get("share")
        rank, quality, cost = (method[key] for key in ("identification_unseen", "quality", "cost"))
        yield [
            method["title"],
            str(plain["impersonation"]["n"]) if plain else "0",
            _change(plain, "impersonation"),
            _percent(shared and shared["impersonation"]),
            _change(plain, "dodging"),
            _percent(shared and shared["dodging"]),
            f"{_percent(rank['rank1_clean'])} -> {_percent(rank['rank1'])}",
            _number(quality["ssim"]["mean"], ".3f"),
            _number(quality["psnr"]["mean"], ".1f"),
            _number(cost["seconds_median"], ".1f"),
            str(len(method["failures"])),
        ]


def _recogniser_rows(summary: Mapping[str, Any], far: str) -> Iterable[list[str]]:
    for name, method in summary["methods"].items():
        if name in TRADE_OFF:
            continue  # ten more lines per recogniser would drown the others'

        for entry in method["verification"]:
            if entry["transformation"] == "none" and entry["far"] == far:
                yield [
                    method["title"],
                    entry["title"],
                    "no" if entry["unseen"] else "yes",
                    str(entry["impersonation"]["n"]),
                    _change(entry, "impersonation"),
                    _change(entry, "dodging"),
                ]


def _change(entry: Mapping[str, Any] | None, name: str) -> str:
    """ "0.0 -> 97.2 % (90-99)"; "-" without trials."""
    if entry is None or not entry[name]["n"]:
        return "-"
    after = entry[name]
    before = entry[f"{name}_clean"]["rate"]
    interval = f"{100 * after['low']:.0f}-{100 * after['high']:.0f}"
    return f"{100 * before:.1f} -> {100 * after['rate']:.1f} % ({interval})"


def _percent(one: Mapping[str, Any] | None) -> str:
    return f"{100 * one['rate']:.1f} %" if one and one["n"] else "-"


def _as_percent(far: str) -> str:
    return f"{100 * float(far):g} %"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
