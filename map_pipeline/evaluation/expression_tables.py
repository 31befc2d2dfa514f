"""The truth of expressions as one table, and as a sheet to look at."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from map_pipeline.evaluation.expression_truth import MEAN, NEUTRAL, NO_EDIT, RETAKE, Edit, Row
from map_pipeline.expression.people import LabelledPhoto, PeoplePhotos
from map_pipeline.images import to_pil

KEYS = ["subject", "source", "emotion", "file", "neutral", "method"]
RESAMPLES = 2000
ALL = "all"
SIDE, CAPTION, GAP = 320, 26, 8  # px of a picture on the sheet


def table(rows: Sequence[Row]) -> str:
    """Medians over people as Markdown, with the bootstrap's 95 % interval where it matters.

    The pairs of a person and an emotion count as one value, their median. "all" takes all of these
    together; its interval resamples people. Classifiers' answers are shares, edited / real.
    """
    pairs = pd.DataFrame(rows)
    values = [name for name in pairs if name not in KEYS]
    how = {name: "mean" if "named" in name else "median" for name in values}
    grouped = pairs.groupby(["method", "emotion", "subject"], sort=False)
    people = grouped.agg(how).join(grouped.size().rename("pairs")).reset_index()
    every = people.assign(emotion=ALL)
    order = [RETAKE, NO_EDIT, MEAN]
    methods = sorted(
        people["method"].unique(), key=lambda m: (order.index(m) if m in order else 9, m)
    )
    lines = []
    for method in methods:
        emotions = [] if method == NO_EDIT else sorted(people["emotion"].unique())
        for emotion in (ALL, *emotions):
            chosen = every if emotion == ALL else people
            group = chosen[(chosen["method"] == method) & (chosen["emotion"] == emotion)]
            if len(group):
                lines.append({"method": method, "emotion": emotion, **_line(group, values)})
    return pd.DataFrame(lines).fillna("-").to_markdown(index=False, disable_numparse=True)


def _line(group: pd.DataFrame, values: Sequence[str]) -> dict[str, str | int]:
    """One line of the table from a method's values, one for each person and emotion."""
    line: dict[str, str | int] = {
        "people": group["subject"].nunique(),
        "pairs": int(group["pairs"].sum()),
    }
    for name in values:
        if not group[name].notna().any():
            continue
        if name.startswith("named"):
            real = group[f"real {name}"].mean()
            line[f"{name}, edited / real"] = f"{group[name].mean():.0%} / {real:.0%}"
        elif name.startswith("real"):
            continue
        elif name in ("size", "cosine"):
            line[name] = f"{group[name].median():.2f} ({_interval(group, name, '.2f')})"
        elif name == "error":
            line[name] = f"{group[name].median():.0%} ({_interval(group, name, '.0%')})"
        else:
            line[name] = f"{group[name].median():.0%}"
    return line


def _interval(group: pd.DataFrame, name: str, form: str) -> str:
    """Bootstrap's 95 % interval of the median: people are drawn, with all of their emotions."""
    random = np.random.default_rng(0)
    people = [one[name].dropna().to_numpy() for _, one in group.groupby("subject")]
    drawn = random.integers(len(people), size=(RESAMPLES, len(people)))
    medians = [np.median(np.concatenate([people[i] for i in draw])) for draw in drawn]
    low, high = np.nanquantile(medians, [0.025, 0.975])
    return f"{low:{form}} to {high:{form}}"


def sheet(
    people: PeoplePhotos,
    persons: Sequence[Sequence[LabelledPhoto]],
    edit: Edit,
    strengths: Sequence[float],
) -> Image.Image:
    """A line for each person and emotion: neutral photo, edit at each strength, real photo."""
    lines = []
    for photos in persons:
        firsts = {photo.emotion: photo for photo in reversed(photos)}
        neutral = people.read(firsts.pop(NEUTRAL))
        for emotion, real in sorted(firsts.items()):
            pictures = [edit(neutral, emotion, strength) for strength in strengths]
            names = [f"{emotion}, {strength:g}" for strength in strengths]
            captions = [photos[0].subject, *names, "the real photo"]
            lines.append((captions, [neutral, *pictures, people.read(real)]))
    width, height = SIDE + GAP, SIDE + CAPTION + GAP
    result = Image.new("RGB", ((len(strengths) + 2) * width, len(lines) * height), "white")
    draw, font = ImageDraw.Draw(result), ImageFont.load_default(CAPTION - 8)
    for row, (captions, pictures) in enumerate(lines):
        for column, (caption, picture) in enumerate(zip(captions, pictures, strict=True)):
            place = (column * width, row * height)
            draw.text((place[0] + SIDE / 2, place[1] + 2), caption, "black", font, anchor="ma")
            shown = to_pil(picture)
            shown.thumbnail((SIDE, SIDE)) if max(shown.size) > SIDE else None
            result.paste(shown.resize((SIDE, SIDE)), (place[0], place[1] + CAPTION))
    return result
