"""What the page says, apart from how Gradio lays it out: settings, texts, and report rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from map_pipeline.config import MODES
from map_pipeline.errors import UnknownOptionError
from map_pipeline.expression import EMOTIONS
from map_pipeline.report import (
    EXPRESSION_HEADER,
    RECOGNISER_HEADER,
    FaceReport,
    expression_row,
    recogniser_row,
)

TITLE = "MAP: protect a photo from face recognition"

INTRO = f"""# {TITLE}
Changes the **expression** of a face and details of it, so that face-recognition software takes it
for somebody else while people still see you. Choose a photo and an expression, press
**Protect**."""

HOW_IT_WORKS = """### How it works
1. The face is found, and its features are moved to the expression you chose. A small diffusion
   network paints what a movement can't show, such as teeth and folds.
2. The same network turns the face into noise and back. On the way back it is tuned for this one
   photo: recognition software should see the target and no longer you. *Strong* takes more time for
   that, keeps an eye on the expression, and reconciles the two where they pull apart.
3. Only the change of the face is put back into your photo. All other pixels stay as they were.

The targets are averages of several faces. None of them is a real person.

### What it doesn't promise
- Recognition systems that weren't used in the editing may still recognise you. The table tells
  which ones were used and what each of them says now.
- Strong compression, scaling or another person's photo of you can undo the protection.
- Clothes, places, file names and who posts the photo identify people, too.
- Use it on your own photos, or with the consent of those who are in them."""

PRIVACY = """**Privacy.** Your photo is used for this one result. It isn't logged or used for
training, and the temporary copies of upload and result are deleted after 10 to 20 minutes. The
result is a PNG without any metadata (no place, no time, no camera)."""

FACE_CHOICES = [("Largest face", "largest"), ("All faces", "all")]
EMOTION_CHOICES = [(emotion.capitalize(), emotion) for emotion in EMOTIONS]
# Seconds that one face takes on two processor cores, measured on a photo of 512 px.
MODE_SECONDS = {"fast": 5, "strong": 15}
MODE_CHOICES = [
    (f"Fast: about {MODE_SECONDS['fast']} seconds", "fast"),
    (f"Strong: about {MODE_SECONDS['strong']} seconds, protects better", "strong"),
]
MODE_INFO = "Time for one face without a graphics card; with one it takes less."
EXPRESSION_INFO = "0 hardly changes the expression, 1 shows it in full."
STEPS_INFO = "0: as many as the protection needs, " + ", ".join(
    f"{config.refine_steps} for {mode}" for mode, config in MODES.items()
)
AUTO_CHOICE = ("Auto: a similar face that isn't yours", "auto")
TARGET_INFO = "Averages of several faces, nobody real. Click a picture or choose from the list."
TABLE_LABEL = "What each recogniser says (similarity before -> after)"
RECOGNISER_COLUMNS = ["face", *RECOGNISER_HEADER]
RECOGNISER_WIDTHS = [52, 120, 58, 98, 125, 72, 125, 78]  # px
EXPRESSION_COLUMNS = ["face", *EXPRESSION_HEADER]

# Captions of the targets in full, instead of cut after a few letters.
CSS = """.caption-label {
    white-space: normal !important; font-size: 11px !important; padding: 2px 4px !important;
    max-width: 100% !important; right: 0 !important; bottom: 0 !important;
}"""

MAX_STEPS = 60  # fine-tuning steps offered on the page

# Seconds of GPU time to ask for. Chosen with a margin, as ZeroGPU aborts what overruns, but a
# visitor's whole quota is two minutes a day.
GPU_SECONDS_BASE, GPU_SECONDS_PER_FACE = 8, 2
GPU_SECONDS_PER_STEP = {"fast": 0.15, "strong": 0.3}
MAX_GPU_SECONDS = {"fast": 20, "strong": 60}


@dataclass(frozen=True)
class PageSettings:
    """What the user chose on the page; `check` it, as API clients can send anything.

    Attributes:
        emotion: one of `EMOTIONS`.
        expression_strength: how far the expression is changed, in [0,1].
        target: "auto" or the name of a built-in target.
        faces: "largest" or "all".
        mode: "fast" or "strong".
        seed: of the random views, >= 0.
        strength: visible change that the protection may cost, in (0,1].
        steps: fine-tuning steps per face, up to `MAX_STEPS`; 0 is the number of the mode.
    """

    emotion: str
    expression_strength: float
    target: str
    faces: str
    mode: str
    seed: int
    strength: float
    steps: int

    def check(self, targets: Sequence[str]) -> None:
        """Raise `UnknownOptionError` for a value outside its choices or range.

        Args:
            targets: names of the built-in targets.
        """
        _check_choice("emotion", self.emotion, EMOTIONS)
        _check_number("expression_strength", self.expression_strength, int | float, 0, 1)
        _check_choice("target", self.target, ("auto", *targets))
        _check_choice("faces", self.faces, [value for _, value in FACE_CHOICES])
        _check_choice("mode", self.mode, tuple(MODES))
        _check_number("seed", self.seed, int, 0, 2**63 - 1)
        _check_number("strength", self.strength, int | float, 0.05, 1)
        _check_number("steps", self.steps, int, 0, MAX_STEPS)

    def gpu_seconds(self, faces: int) -> int:
        """GPU time to ask for, in whole seconds, for so many faces."""
        steps = self.steps or MODES[self.mode].refine_steps
        per_face = GPU_SECONDS_PER_FACE + GPU_SECONDS_PER_STEP[self.mode] * steps
        return min(MAX_GPU_SECONDS[self.mode], round(GPU_SECONDS_BASE + per_face * faces))


# Fast, unlike the pipeline's own default: somebody who tries the page waits for it.
DEFAULTS = PageSettings(
    emotion="happy",
    expression_strength=MODES["fast"].expression_strength,
    target="auto",
    faces="largest",
    mode="fast",
    seed=0,
    strength=0.5,
    steps=0,
)


def step_progress(done: int, total: int, faces: int) -> str:
    """What the progress bar says after `done` of `total` fine-tuning steps of all faces."""
    if done == total:
        return "Checking the result"
    number = done * faces // total + 1
    return "Protecting the face" if faces == 1 else f"Protecting face {number} of {faces}"


def caption(target: str) -> str:
    """A target's name as people write it: "woman-young-light" becomes "woman, young, light"."""
    return target.replace("-", ", ")


def verdict(reports: Sequence[FaceReport]) -> str:
    """The result in plain words, as Markdown: one paragraph per protected face."""
    several = len(reports) > 1
    paragraphs = [
        (f"**Face {number}:** " if several else "") + _face_verdict(report)
        for number, report in enumerate(reports, 1)
    ]
    return "\n\n".join(paragraphs)


def recogniser_rows(reports: Sequence[FaceReport]) -> list[list[str]]:
    """Table rows under `RECOGNISER_COLUMNS`, all faces below each other."""
    return [
        [str(number), *recogniser_row(one)]
        for number, report in enumerate(reports, 1)
        for one in report.recognisers
    ]


def expression_rows(reports: Sequence[FaceReport]) -> list[list[str]]:
    """Table rows under `EXPRESSION_COLUMNS`, all faces below each other."""
    return [
        [str(number), *expression_row(one, report)]
        for number, report in enumerate(reports, 1)
        for one in report.expressions
    ]


def _face_verdict(report: FaceReport) -> str:
    judged = [one for one in report.recognisers if one.no_longer_matches is not None]
    total = len(judged)
    unmatched = sum(bool(one.no_longer_matches) for one in judged)
    fooled = sum(bool(one.impersonates) for one in judged)
    unseen = sum(not one.used_in_optimisation for one in judged)
    happened = sum(
        max(one.after, key=one.after.__getitem__) == report.emotion for one in report.expressions
    )
    sentences = []
    if judged:
        sentences += [
            f"**{unmatched} of {total} recognisers no longer match you**; "
            f"{fooled} of {total} see the target.",
            _used_sentence(unseen),
        ]
    if report.expressions:
        sentences.append(
            f"{happened} of {len(report.expressions)} expression networks now see "
            f"*{report.emotion}* first."
        )
    return " ".join(sentences)


def _used_sentence(unseen: int) -> str:
    if unseen == 0:
        return "All of them were used in the editing; others may see less of a change."
    return f"{unseen} of them {'was' if unseen == 1 else 'were'} not used in the editing."


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UnknownOptionError(f"`{name}` must be one of {', '.join(choices)}; got {value!r}.")


def _check_number(name: str, value: Any, kind: Any, low: float, high: float) -> None:
    if not isinstance(value, kind) or not low <= value <= high:  # also true for NaN
        raise UnknownOptionError(f"`{name}` must be in [{low}, {high}], got {value!r}.")
