"""What the page says, apart from results."""

from collections.abc import Mapping

TITLE = "MAP: protect a photo from face recognition"

INTRO = """# Recognisable to friends, not to face recognition
A new **expression** makes your face hard for software to find, but not for friends."""

PRIVACY_LINE = """Your photo is used only for this result and never logged. Copies are deleted after
10 minutes, and the download contains no place, time or camera data."""

HOW_IT_WORKS = """### Step by step
1. The face is found, and its features are moved to the expression you chose. Small networks that
   have learnt what faces look like paint what moving can't produce, such as teeth and wrinkles.
2. One of them repaints the face again and again, a little better each time, until recognition
   programs no longer see you in it. Your features move a little, too. Every visible change has a
   cost, so the work stops once the protection is sure enough. *Strong* spends more time on this
   and gets there with a cleaner picture.
3. Only the change to the face is applied to your photo. All other pixels stay as they were.

Software can also be led to see somebody else in you, a stand-in. The built-in ones are averages
of several faces; none of them is a real person."""

NO_PROMISE = """### What it doesn't promise
- Recognition programs that weren't used in the editing may still find you. Every result shows
  which ones were used and what each of them says now.
- Saving the photo at a low quality or making it smaller can undo the protection, and so can other
  photos of you.
- Clothes, places, file names and who posts the photo identify people, too.
- Photos you have already shared stay as they are.
- Use it only on your own photos, or with the consent of the people in them."""

PRIVACY = """### Privacy
- Your photo is used only for this result. It isn't logged, kept in a run history in your browser,
  or used for training. There are no analytics and no requests to other servers.
- Temporary copies of uploads and results are deleted after ten minutes.
- The result has no location, time, camera data or comments.
- The same holds for photos you compare under *Check a photo*."""

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

CHECK_INTRO = """Do recognition programs think two photos show the same person? Test a protected
photo against **another photo of you**, or compare any two. Only the largest face in each counts."""

CONSENT = "The person in this picture is me, or has agreed to this use"
TARGET_NOTICE = """Recognition software may mistake you for the person in this picture. Only use a
picture of someone who has agreed to that, and never use it to impersonate anyone."""

TARGET_LABEL = "Stand-in: whom software takes you for"
TARGET_INFO = (
    "Auto picks somebody who looks a little like you; Nobody only hides you. None of these faces "
    "is a real person: each is an average of several."
)
OWN_TARGET = "A stand-in of your own"
PREVIEW = "Preview: not protected yet"
SHOW_ORIGINAL = "Hold to see the original"
STOPPING = '<p class="map-note" role="status">Stopping …</p>'
NOT_TESTED = '<p class="map-note">Not measured for this result.</p>'
WHOSE = "Expression of"
PICKING = "Click a face to include it or leave it out; click its number to set its expression."
MODE_INFO = "Strong takes longer and gets there with a cleaner picture."
MARGIN_INFO = "High protects better against other programs, but changes your face more."
MARGIN_CHOICES = [("Normal", "normal"), ("High", "high")]
FILE_TYPE_CHOICES = [("As uploaded", "auto"), ("PNG", "png"), ("JPEG", "jpeg")]
FILE_TYPE_INFO = "PNG keeps every detail, but is several times larger for photos from phones."
MOVEMENTS = {
    "smile": "Smile",
    "mouth_open": "Mouth open",
    "brows_up": "Eyebrows up",
    "inner_brows": "Inner eyebrows up",
    "eyes_wide": "Eyes wide open",
    "squint": "Squint",
    "nose_wrinkle": "Nose wrinkled",
    "lip_corners_down": "Corners of the mouth down",
    "pucker": "Lips puckered",
    "lips_pressed": "Lips pressed together",
    "smirk": "One corner of the mouth up",
    "wink_left": "Wink, left in the photo",
    "wink_right": "Wink, right in the photo",
}
MOVEMENTS_INFO = (
    "Added to the expression. Below 0 is the opposite movement; for a smirk, the other corner."
)
COPIED = "Copy the expression of this photo"
COPIED_NOTE = "Replaces the expression chosen above. Works best with a photo of the same person."
ROTATE = "Look for rotated faces, too"
ROTATE_INFO = "Finds people lying on their side or upside down next to upright ones."
SEED_INFO = "The same number gives the same result again."
STEPS_INFO = "How many times the picture is improved at most; 0 takes the mode's number: "
QUESTION = "Would software still find you?"
OTHER = """**The honest test.** Programs that search for you have other photos, not this one. Add
another photo of you, and the answer above will be about that one."""
ADVICE = "Another expression may help, or, under “More”, High for “How safe”."
STRONGER = "Try again in Strong mode"
RESULTS = "Your results: choose one to see it again"
STRANGER = "No program finds you in this other photo, so it can't test the protection."
STRANGER_HINT = "Choose one that shows the same person from the front, in good light."
EXPRESSIONS = {
    "angry": "an angry", "disgust": "a disgusted", "fear": "a frightened", "happy": "a happy",
    "neutral": "a calm", "sad": "a sad", "surprise": "a surprised",
    "contempt": "a contemptuous", "closed_smile": "a gently smiling",
}  # fmt: skip
UPLOAD = "Drop an image file here to upload"  # also the name for screen readers
CHOOSE_PHOTO = "Choose a photo first."
CHOOSE_PHOTOS = "Choose some photos first."
BATCH_INTRO = """All clear faces in all photos get this expression. Everything else is as chosen
under *More* on the *Protect* tab."""
BATCH_HINT = "Results appear here one by one, with the reason if a photo can't be protected."
CHOOSE_CLIP = "Choose a clip first."
CLIP_FACES = [("The main person", "largest"), ("Everyone", "all")]
CLIP_INTRO = """Each person keeps one expression for the whole clip, added to what they do and say;
the sound stays as it is. Everything else is as chosen under *More* on the *Protect* tab, but for
winks."""
CLIP_HINT = "The protected clip appears here."
NO_CLIPS = """Clips need **PyAV**, which isn't installed here: run
`pip install 'map-pipeline[video]'`, then start this page again."""
NO_FACE_YET = "No face in the first frame, so there is no preview."
SAME_CLIP = "Compared with the very same clip, which is the hardest test."
NO_TIME_LEFT = (
    "This run has no GPU time left for this photo. Protect it in another run, or use Fast mode."
)
NO_ADDRESSES = "This page opens no web addresses: save the picture and upload it as a file."
SAME_PHOTO = (
    "Compared with the very same photo, which is the hardest test. For the honest one, add another "
    "photo of you below."
)
NO_NETWORKS = "The networks of this page can't be loaded. Please tell whoever runs it."
WRONG_ON_OUR_SIDE = "Something went wrong on our side. Please try again, or choose another photo."
EMPTY_RESULT = """<div class="map-empty"><p><b>Your result appears here</b></p>
<p>Choose a photo, or try an example: its result appears immediately.</p></div>"""


def emotion_label(emotion: str) -> str:
    """An emotion as a button: "closed_smile" becomes "Closed smile"."""
    return emotion.replace("_", " ").capitalize()


def expected(seconds: Mapping[str, float] | None) -> str:
    """How long a face takes, as HTML; nothing if that isn't known."""
    if seconds is None:
        return ""
    fast, strong = _seconds(seconds["fast"]), _seconds(seconds["strong"])
    return f'<p class="map-note">Takes about {fast} a face; in Strong mode about {strong}.</p>'


def clip_limits(seconds: float, size: tuple[int, int]) -> str:
    """How long and large a clip may be."""
    return f"A clip may be up to {seconds:g} s long and {size[0]} x {size[1]} px large."


def too_much_for_gpu(faces: int) -> str:
    """What is said of one photo for which the GPU isn't lent for long enough."""
    fewer = "fewer faces, " if faces > 1 else ""
    return f"This photo needs more GPU time than a run has. Choose {fewer}fewer steps or Fast mode."


def caption(target: str) -> str:
    """A target's name as people write it: "woman-young-light" becomes "woman, young, light"."""
    return target.replace("-", ", ")


def doubts(count: int) -> str:
    """What is said where more faces may be than were found."""
    faces = "another face" if count == 1 else f"{count} more faces"
    return f"There may be {faces}, rotated or half hidden, left unchanged."


def step(done: int, total: int, faces: int) -> str:
    """What is going on after `done` of `total` fine-tuning steps of all faces."""
    if done == total:
        return "Checking the result"
    number = done * faces // total + 1
    return "Protecting the face" if faces == 1 else f"Protecting face {number} of {faces}"


def _seconds(value: float) -> str:
    if value < 20:
        return f"{max(1, round(value))} s"
    return f"{5 * round(value / 5)} s"  # nobody can promise more precisely
