"""Many clients at once, for a bounded time: `make load CLIENTS=8 SECONDS=300`.

One client asks for previews of every photo and protects it, alone. Then each client does so with a
photo of its own again and again, and has to get, to the last bit, what the one client got for it.
Prints what happened as Markdown; exit code 1 if a rule of `broken_rules` doesn't hold.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier

import numpy as np
from gradio_client import Client, handle_file
from gradio_client.utils import Status
from page_process import ROOT, memory, running_page
from PIL import Image, ImageOps

from map_pipeline.config import EMOTIONS
from map_pipeline.ui.cache import SWEEP_SECONDS
from map_pipeline.ui.settings import PageSettings

UNCHANGED = 0.2  # least share of a photo's values outside the face
PREVIEWS = 4  # that a client asks for before it protects a photo
PREVIEW_CHANGE = 20  # of 255, mean: more than an expression and JPEG change, less than two people
PORTRAITS = ("astronaut.png", "man-older-dark.png", "woman-young-tan.png", "hopper-grey.png")
GROWTH = 100  # MB that the server may be larger at the end than after the one client
SLOWDOWN = 0.2  # share of the one client's throughput that may be lost

# The page of app.py with another checkpoint and other seconds until files are deleted.
SERVER = """
import sys
import app
from pathlib import Path
page = app.PageSettings(checkpoint=Path(sys.argv[1]), keep_seconds=int(sys.argv[2]))
app.start(page, lambda: app.load_shipped(page)).block_thread()
"""


@dataclass(frozen=True)
class Visit:
    """A client's previews and protection.

    Attributes:
        seconds: of the protection.
        position: the highest in the queue that was shown.
        failure: what failed first.
        previews: seconds of each.
    """

    seconds: float
    position: int | None
    failure: str | None = None
    previews: tuple[float, ...] = ()


@dataclass
class Phase:
    """What so many clients did in so many seconds."""

    clients: int
    seconds: float = 0.0
    visits: list[Visit] = field(default_factory=list)

    @property
    def done(self) -> list[Visit]:
        """Calls that brought the right photo."""
        return [one for one in self.visits if not one.failure]

    @property
    def failures(self) -> list[str]:
        """What went wrong, call by call."""
        return [one.failure for one in self.visits if one.failure]

    @property
    def per_minute(self) -> float:
        """Throughput in photos."""
        return 60 * len(self.done) / self.seconds

    @property
    def position(self) -> int | None:
        """The highest position in the queue that anybody was shown."""
        return max((one.position for one in self.visits if one.position is not None), default=None)


@dataclass
class Outcome:
    """Both phases, and the server around the second one.

    Attributes:
        memory: resident MB when idle before, at most meanwhile, and when idle at the end.
        files: files of visitors on disk right after the last call, and when they should be gone.
        log: what the server wrote.
    """

    alone: Phase
    together: Phase
    memory: tuple[float, float, float]
    files: tuple[int, int]
    log: str


def photos(count: int, folder: Path) -> list[Path]:
    """Portraits that differ from each other: the examples, mirrored and cut a little."""
    paths = []
    for number in range(count):
        photo = Image.open(ROOT / "examples" / PORTRAITS[number % len(PORTRAITS)]).convert("RGB")
        if number // len(PORTRAITS) % 2:
            photo = ImageOps.mirror(photo)
        photo = photo.crop((0, number, photo.width, photo.height))
        paths.append(folder / f"{number}.png")
        photo.save(paths[-1])
    return paths


class References:
    """What a client should get: by its name, the first result that it got."""

    def __init__(self) -> None:
        self._first: dict[str, np.ndarray] = {}

    def compare(self, name: str, result: np.ndarray, own: bool) -> str | None:
        """What is wrong with a result; the first of its name has to be of the own photo."""
        if name not in self._first:
            self._first[name] = result
            return None if own else f"the {name} isn't of the own photo"
        same = np.array_equal(result, self._first[name])
        return None if same else f"another {name} than alone"


class Visitor:
    """A client with its photo and its choices; `references` are the results it should get."""

    def __init__(self, url: str, number: int, photo: Path, steps: int) -> None:
        folder = photo.with_name(f"downloads-{number}")
        self.client = Client(url, verbose=False, download_files=folder, analytics_enabled=False)
        self.photo, self.steps = photo, steps
        self.emotion = EMOTIONS[number % len(EMOTIONS)]
        self.references = References()

    def visit(self) -> Visit:
        """Look at a few expressions and protect the photo; the first results become references."""
        position, previews, failures = None, [], []
        started = time.monotonic()
        try:
            for emotion in EMOTIONS[:PREVIEWS]:
                started = time.monotonic()
                failures.append(self.look(emotion))
                previews.append(time.monotonic() - started)
            started = time.monotonic()
            position, failure = self.protect()
            failures.append(failure)
        except Exception as error:  # whatever a client meets is a finding
            failures.append(f"{type(error).__name__}: {str(error)[:200]}")
        failure = next(filter(None, failures), None)
        return Visit(time.monotonic() - started, position, failure, tuple(previews))

    def look(self, emotion: str) -> str | None:
        """Ask for a preview; what is wrong with it."""
        photo = handle_file(self.photo)
        file = self.client.predict(photo=photo, emotion=emotion, api_name="/preview")
        result, original = (np.array(Image.open(path)).astype(int) for path in (file, self.photo))
        own = result.shape == original.shape and np.abs(result - original).mean() < PREVIEW_CHANGE
        return self.references.compare(f"preview of {emotion}", result, own)

    def protect(self) -> tuple[int | None, str | None]:
        """Protect the photo; the highest position in the queue, and what is wrong in the end."""
        position = None
        job = self.client.submit(
            photo=handle_file(self.photo),
            emotion=self.emotion,
            steps=self.steps,
            mode="fast",
            api_name="/protect",
        )
        while not job.done():
            status = job.status()
            if status.code == Status.IN_QUEUE and status.rank is not None:
                position = max(position or 0, status.rank + 1)
            time.sleep(0.05)
        result, original = (np.array(Image.open(path)) for path in (job.result()[0], self.photo))
        # Away from the face every bit is that of the own photo. (The face itself may be, too.)
        own = result.shape == original.shape and (result == original).mean() >= UNCHANGED
        return position, self.references.compare("photo", result, own)

    def visit_until(self, start: Barrier, seconds: float) -> list[Visit]:
        """Visit again and again; the last visit begins before the seconds are over."""
        start.wait()
        end = time.monotonic() + seconds
        visits = []
        while time.monotonic() < end or not visits:
            visits.append(self.visit())
        return visits


def one_by_one(visitors: list[Visitor]) -> Phase:
    """Everybody once, nobody waits for anybody."""
    started = time.monotonic()
    visits = [one.visit() for one in visitors]
    return Phase(1, time.monotonic() - started, visits)


def all_at_once(visitors: list[Visitor], seconds: float) -> Phase:
    """Everybody again and again, for so many seconds."""
    start = Barrier(len(visitors))
    started = time.monotonic()
    with ThreadPoolExecutor(len(visitors)) as threads:
        visits = list(threads.map(lambda one: one.visit_until(start, seconds), visitors))
    return Phase(
        len(visitors), time.monotonic() - started, [one for part in visits for one in part]
    )


def run(clients: int, seconds: float, steps: int, checkpoint: Path, keep_seconds: int) -> Outcome:
    """Start a page, load it with clients, and wait until it should have deleted their files."""
    with tempfile.TemporaryDirectory() as folder:
        paths = photos(clients, Path(folder))
        command = [sys.executable, "-c", SERVER, str(checkpoint), str(keep_seconds)]
        settings = {"TMPDIR": str(Path(folder) / "cache"), "PYTHONPATH": str(ROOT)}
        with running_page(command, Path(folder), settings) as (url, process, cache, log):
            visitors = [Visitor(url, *one, steps) for one in enumerate(paths)]
            visitors[0].visit()  # the first one also waits for the networks to load
            alone = one_by_one(visitors)
            before = memory(process.pid)
            reset_peak(process.pid)
            together = all_at_once(visitors, seconds)
            left = len(files(cache))
            wait_until_empty(cache, keep_seconds + min(SWEEP_SECONDS, keep_seconds) + 30)
            usage = (before, memory(process.pid, "VmHWM"), memory(process.pid))
            return Outcome(alone, together, usage, (left, len(files(cache))), log.read_text())


def reset_peak(pid: int) -> None:
    """Let the peak of the resident memory be counted from now on."""
    with contextlib.suppress(OSError):  # not everywhere allowed; the peak is only reported
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def wait_until_empty(folder: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while files(folder) and time.monotonic() < end:
        time.sleep(1)


def broken_rules(outcome: Outcome) -> list[str]:
    """What must hold and doesn't, in one line each."""
    alone, together = outcome.alone, outcome.together
    before, _, after = outcome.memory
    waiting = together.clients > 1
    slower = f"from {alone.per_minute:.1f} to {together.per_minute:.1f} photos a minute"
    rules = {
        f"{len(alone.failures)} calls of the one client failed": alone.failures,
        f"{len(together.failures)} calls failed": together.failures,
        "nobody was shown a position in the queue": waiting and together.position is None,
        f"throughput fell {slower}": together.per_minute < (1 - SLOWDOWN) * alone.per_minute,
        f"memory grew from {before:.0f} to {after:.0f} MB": after > before + GROWTH,
        f"{outcome.files[1]} files weren't deleted": outcome.files[1],
        "the server's log holds an error": "Traceback" in outcome.log or " at\n" in outcome.log,
    }
    return [text for text, broken in rules.items() if broken]


def table(outcome: Outcome) -> str:
    """Markdown."""
    lines = [
        "| clients | seconds | photos | a minute | median wait | longest wait | queue position, "
        "highest | previews | median wait | longest wait | failures |",
        "|" + " --- |" * 11,
    ]
    for one in (outcome.alone, outcome.together):
        waits = [visit.seconds for visit in one.visits]
        looks = [seconds for visit in one.visits for seconds in visit.previews]
        lines.append(
            f"| {one.clients} | {one.seconds:.0f} | {len(one.done)} | {one.per_minute:.1f} | "
            f"{_median_and_longest(waits)} | {one.position or '-'} | "
            f"{len(looks)} | {_median_and_longest(looks)} | {len(one.failures)} |"
        )
    before, peak, after = outcome.memory
    lines += [
        "",
        "| server | before | meanwhile | at the end |",
        "| --- | --- | --- | --- |",
        f"| memory | {before:.0f} MB | {peak:.0f} MB | {after:.0f} MB |",
        f"| files of visitors | - | {outcome.files[0]} | {outcome.files[1]} |",
    ]
    return "\n".join(lines)


def _median_and_longest(seconds: list[float]) -> str:
    """Two cells of the table."""
    if not seconds:
        return "- | -"
    return f"{statistics.median(seconds):.1f} s | {max(seconds):.1f} s"


def main() -> int:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--steps", type=int, default=0, help="of fine-tuning; 0: as many as usual")
    parser.add_argument("--checkpoint", type=Path, default=PageSettings().checkpoint)
    parser.add_argument(
        "--keep", type=int, default=180, help="seconds until the page deletes a file"
    )
    options = parser.parse_args()
    outcome = run(options.clients, options.seconds, options.steps, options.checkpoint, options.keep)
    print(table(outcome))
    failures = [*outcome.alone.failures, *outcome.together.failures]
    broken = broken_rules(outcome)
    print("\n".join(["", *sorted(set(failures)), *(broken or ["all rules hold"])]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
