"""The truth of expressions as one table, and as a sheet to look at."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image

from map_pipeline.evaluation.expression_truth import (
    MEAN,
    NEUTRAL,
    NO_EDIT,
    RETAKE,
    Row,
    Truth,
    face_cutter,
)
from map_pipeline.evaluation.sheets import draw_sheet
from map_pipeline.expression.people import LabelledPhoto, PeoplePhotos
from map_pipeline.images import to_pil

KEYS = ("subject", "source", "emotion", "file", "neutral", "method")
# How values are shown; what isn't here is a median in per cent.
FORMS = {"error": ".0%", "size": ".2f", "cosine": ".2f"}
ALL = "all"
RESAMPLES = 2000
SIDE = 384  # px of a picture on the sheet


def table(rows: Sequence[Row]) -> str:
    """Medians over people as Markdown, with the bootstrap's 95 % interval of those in `FORMS`.

    The pairs of a person and an emotion count as one value, their median. In "all" each emotion has
    the same weight. Classifiers' answers are mean shares, of edited and of real photos.
    """
    pairs = pd.DataFrame(rows)
    values = [name for name in pairs if name not in KEYS]
    how = {name: "mean" if "named" in name else "median" for name in values}
    grouped = pairs.groupby(["method", "emotion", "subject"], sort=False)
    people = grouped.agg(how).join(grouped.size().rename("pairs")).reset_index()
    yardsticks = [RETAKE, NO_EDIT, MEAN]
    edits = sorted(set(people["method"]) - {*yardsticks})
    lines = []
    for method in (*yardsticks, *edits):
        of_method = people[people["method"] == method]
        emotions = [] if method == NO_EDIT else sorted(of_method["emotion"].unique())
        for emotion in (ALL, *emotions):
            group = of_method if emotion == ALL else of_method[of_method["emotion"] == emotion]
            if len(group):
                line = {"people": group["subject"].nunique(), "pairs": group["pairs"].sum()}
                cells = {name: _cell(group, name) for name in values if "real" not in name}
                lines.append({"method": method, "emotion": emotion, **line, **cells})
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def _cell(group: pd.DataFrame, name: str) -> str:
    """One measure of a method's values, a line for each person and emotion; "-" without any."""
    known = group[group[name].notna()]
    if known.empty:
        return "-"
    share = 1 / known.groupby("emotion")["emotion"].transform("size").to_numpy()
    if name.startswith("named"):
        edited, real = (np.average(known[key], weights=share) for key in (name, f"real {name}"))
        return f"{edited:.0%} (real {real:.0%})"
    values = known[name].to_numpy()
    form = FORMS.get(name, ".0%")
    middle = f"{_medians(values, share[None])[0]:{form}}"
    if name not in FORMS:
        return middle
    # People are drawn with all of their emotions, as these aren't independent.
    subjects, person = np.unique(known["subject"], return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(
        len(subjects), np.full(len(subjects), 1 / len(subjects)), RESAMPLES
    )
    low, high = np.quantile(_medians(values, share * drawn[:, person]), [0.025, 0.975])
    return f"{middle} ({low:{form}} to {high:{form}})"


def _medians(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Medians `[R]` of values `[N]` with R sets of weights `[R,N]`."""
    order = values.argsort()
    reached = weights[:, order].cumsum(1) / weights.sum(1, keepdims=True)
    lower, upper = (reached > 0.5 - 1e-9).argmax(1), (reached > 0.5 + 1e-9).argmax(1)
    return values[order][np.stack([lower, upper])].mean(0)


def sheet(
    truth: Truth, people: PeoplePhotos, persons: Sequence[Sequence[LabelledPhoto]]
) -> Image.Image:
    """A line for each person and emotion: neutral photo, edit at each strength, real photo."""
    lines, cut_out = [], face_cutter(truth.pipe)
    for photos in persons:
        firsts = {photo.emotion: photo for photo in reversed(photos)}
        neutral = people.read(firsts.pop(NEUTRAL))
        for emotion, real in sorted(firsts.items()):
            line = [(photos[0].subject, cut_out(neutral, neutral))]
            for strength in truth.strengths:
                edited = truth.edit(neutral, emotion, strength)
                line.append((f"{emotion}, {strength:g}", cut_out(edited, neutral)))
            true = people.read(real)
            lines.append([*line, ("the real photo", cut_out(true, true))])
    shown = [[(text, None if one is None else to_pil(one)) for text, one in line] for line in lines]
    return draw_sheet(shown, SIDE)
