"""What the page says, apart from results."""

from collections.abc import Mapping

TITLE = "MAP: protect a photo from face recognition"

INTRO = """# Stay yourself to people, not to face recognition
MAP gives the face in your photo a new **expression**, so that face-recognition software takes it
for somebody else while friends still see you. Free, and your photo isn't kept."""

PRIVACY_LINE = """Your photo is used for this one result and never logged. Copies are deleted after
10 minutes; the download carries no place, time or camera."""

HOW_IT_WORKS = """### Step by step
1. The face is found, and its features are moved to the expression you chose. A small diffusion
   network paints what a movement can't show, such as teeth and folds.
2. The same network turns the face into noise and back. On the way back, what it learned from many
   faces and some tuning for this one photo come in: recognition software should see the target and
   no longer you. *Strong* takes more time for
   that, keeps an eye on the expression, and reconciles the two where they pull apart.
3. Only the change of the face is put back into your photo. All other pixels stay as they were.

The targets are averages of several faces. None of them is a real person."""

NO_PROMISE = """### What it doesn't promise
- Recognition systems that weren't used in the editing may still recognise you. Every result tells
  which ones were used and what each of them says now.
- Strong compression, scaling or another photo of you can undo the protection.
- Clothes, places, file names and who posts the photo identify people, too.
- Photos that were already shared stay as they are.
- Use it on your own photos, or with the consent of those who are in them."""

PRIVACY = """### Privacy
- Your photo is used for this one result. It isn't logged, kept in your browser's history of runs,
  or used for training; there is no analytics and no request to other servers.
- The temporary copies of uploads and results are deleted after ten minutes.
- The result is a PNG of the exact pixels, without place, time, camera or comments.
- A comparison under *Check a photo* never leaves this page either."""

PAPER = """### Paper
Binh M. Le and Simon S. Woo: *Machine Pareidolia: Protecting Facial Image with Emotional Editing*,
AAAI 2026.
```bibtex
@inproceedings{le2026map,
  title     = {Machine Pareidolia: Protecting Facial Image with Emotional Editing},
  author    = {Le, Binh M. and Woo, Simon S.},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year      = {2026}
}
```"""

CHECK_INTRO = """Do face recognisers take two photos for the same person? Test a protected photo
against **another photo of you**, or any two photos. The largest face of each is compared."""

CONSENT = "The person in this picture is me, or has agreed to it"
TARGET_NOTICE = """Recognition software may take you for the person in this picture. Use only a
picture of somebody who agreed to that, and never to pass as somebody else."""

TARGET_INFO = "Auto takes a face that resembles yours without being you. All are averages of many."
STOPPING = '<p class="map-note" role="status">Stopping …</p>'
NOT_TESTED = '<p class="map-note">Not tested on this example.</p>'
FACES_INFO = "None ticked: all clear ones."
EXPRESSION_INFO = "0 hardly changes the expression, 1 shows it in full."
STRENGTH_INFO = "How much visible change the protection may cost. Less looks better, protects less."
SEED_INFO = "The same seed gives the same result."
CHOOSE_PHOTO = "Choose a photo first."
SAME_PHOTO = (
    "This compares with the very same photo, the hardest test. Other photos of you are less alike: "
    "try them under “Check a photo”."
)
WRONG_ON_OUR_SIDE = "Something went wrong on our side. Please try again or choose another photo."
EMPTY_RESULT = """<div class="map-empty"><p><b>Your result appears here</b></p>
<p>Choose a photo, or try an example: its result shows at once.</p></div>"""


def mode_choices(seconds: Mapping[str, float] | None) -> list[tuple[str, str]]:
    """Labels and values of the modes, with the seconds one face takes if they're known."""
    fast, strong = (
        "" if seconds is None else f" · about {_seconds(seconds[mode])}"
        for mode in ("fast", "strong")
    )
    return [(f"Fast{fast}", "fast"), (f"Strong{strong}, protects better", "strong")]


def caption(target: str) -> str:
    """A target's name as people write it: "woman-young-light" becomes "woman, young, light"."""
    return target.replace("-", ", ")


def _seconds(value: float) -> str:
    if value < 10:
        return f"{max(1, round(value))} s"
    return f"{5 * round(value / 5)} s"  # nobody can promise more precisely
