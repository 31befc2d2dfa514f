"""Throw hostile pictures at every entrance and print what happened: `make fuzz SECONDS=600`.

Each leg runs in a process of its own, so that a crash or a hang of a decoder is seen and counted;
the case that did it is kept in the folder of `--keep`.
"""

import argparse
import contextlib
import faulthandler
import gc
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import hostile
import hypothesis
import torch
from hypothesis import strategies as st

from map_pipeline.errors import MAPError
from map_pipeline.images import MAX_PIXELS, MIN_SIDE, load_image, load_photo

HANG = 30  # seconds of computing from which an answer comes too late
DEAD = 400  # seconds on the wall, of a machine that may be busy, after which a leg is ended
# MB that a process may be larger at the end than when it was warm. Pools of the decoders, torch and
# onnxruntime take the size of the largest pictures: a pipeline leg of 653 cases grew by 143 MB, one
# of 1,260 by 123.
GROWTH = 200
BATCH = 100  # cases drawn at once
GIANT = "png 7,000 x 7,000 of nothing"
ROOT = Path(__file__).parents[2]
SHARES = {"gate": 0.25, "pipeline": 0.2, "command": 0.15, "processes": 0.1, "page": 0.3}


@dataclass
class Row:
    """What one kind of input did at one entrance."""

    leg: str
    kind: str
    thrown: int = 0
    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)


@dataclass
class Result:
    """What a leg did, and the memory (MB) of the process under test when warm and at the end."""

    rows: list[Row]
    before: float
    after: float
    seconds: float = 0.0


class Tally:
    """Counts outcomes; what was thrown last stays in a file and survives a crash.

    `clock` tells the computing time of the process under test, so that what else the machine does
    makes nothing slow.
    """

    def __init__(self, leg: str, keep: Path) -> None:
        self.leg, self.keep, self.clock = leg, keep, time.process_time
        self.rows: dict[str, Row] = {}

    def throw(self, kind: str, case: Any, call: Callable[[], bool]) -> None:
        """Run `call`, which returns whether the input was accepted and raises on a failure."""
        row = self.rows.setdefault(kind, Row(self.leg, kind))
        row.thrown += 1
        (self.keep / f"last-{self.leg}").write_bytes(as_bytes(case))
        faulthandler.dump_traceback_later(DEAD, exit=True)
        started = self.clock()
        try:
            accepted = call()
        except Exception as error:
            self.fail(row, case, f"{type(error).__name__}: {str(error)[:300]}")
        else:
            row.accepted += accepted
            row.refused += not accepted
        seconds = self.clock() - started
        row.slowest = max(row.slowest, seconds)
        if seconds > HANG:
            self.fail(row, case, f"took {seconds:.0f} s")
        faulthandler.cancel_dump_traceback_later()

    def fail(self, row: Row, case: Any, text: str) -> None:
        """Note a failure and keep what caused it."""
        number = sum(len(one.failures) for one in self.rows.values())
        (self.keep / f"{self.leg}-{number}.bin").write_bytes(as_bytes(case))
        row.failures.append(f"{self.leg}-{number}.bin: {text}")


def as_bytes(case: Any) -> bytes:
    return case if isinstance(case, bytes) else repr(case)[:5000].encode(errors="replace")


def memory(pid: int | str = "self") -> float:
    """Resident memory of a process, MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def resting_memory(pid: int) -> float:
    """Resident memory of a process that may still be busy with what it was asked, MB."""
    sizes = []
    for _ in range(20):
        sizes.append(memory(pid))
        time.sleep(0.5)
    return min(sizes)


def computing_time(pid: int) -> float:
    """Seconds that a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def settled_memory() -> float:
    """Resident memory of this process when all that is free has been given back."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return memory()


def draw(strategy: st.SearchStrategy, seed: int, count: int = BATCH) -> list:
    """Examples of a strategy; the same seed gives the same."""
    found: list = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(case: Any) -> None:
        found.append(case)

    collect()
    return found


def cases(
    strategies: dict[str, st.SearchStrategy], seed: int, seconds: float, count: int
) -> Iterator[tuple[str, Any]]:
    """Kinds and cases, all strategies in turn, until time or number are used up."""
    end, done = time.monotonic() + seconds, 0
    for batch in range(10**6):
        for kind, strategy in strategies.items():
            for case in draw(strategy, seed + batch):
                if time.monotonic() > end or done >= count:
                    return
                yield kind, case
                done += 1


# What each entrance may answer: a picture, or one line that names the rule.


def check_refusal(error: MAPError) -> None:
    text = str(error)
    if "\n" in text or len(text) > 500 or not text.isprintable():
        raise AssertionError(f"not one short line: {text!r}")


def read(case: Any) -> bool:
    """Whether the gate takes an input."""
    try:
        photo = load_photo(case)
    except MAPError as error:
        check_refusal(error)
        return False
    image, clear = photo.pixels, photo.cutout
    width, height = image.size
    if clear is not None and (clear.mode != "RGBA" or clear.info or clear.size != image.size):
        raise AssertionError(f"odd transparency: {clear}, {clear.info}")
    if any(not note.isprintable() or len(note) > 200 for note in photo.notes):
        raise AssertionError(f"not short lines: {photo.notes}")
    if image.mode != "RGB" or image.info or min(width, height) < MIN_SIDE:
        raise AssertionError(f"odd picture: {image}, {image.info}")
    if width * height > MAX_PIXELS:
        raise AssertionError(f"too large: {image}")
    return True


STRATEGIES = {
    "mutated files": hostile.mutants(),
    "PNG of any chunks": hostile.chunk_soup(),
    "arrays and tensors": hostile.arrays(),
    "PIL images": hostile.images(),
    "names and paths": hostile.names(),
}


def gate_leg(tally: Tally, options: argparse.Namespace) -> Result:
    """`load_image`."""
    warm = [*hostile.samples().values(), hostile.bombs()[GIANT]]
    for sample in warm:
        load_image(sample)
    before = settled_memory()
    with tempfile.TemporaryDirectory() as folder:
        special_files(Path(folder), tally)
    for bomb in hostile.bombs().values():
        tally.throw("bombs", bomb, lambda bomb=bomb: read(bomb))
    for kind, case in cases(STRATEGIES, options.seed, options.seconds, options.count):
        tally.throw(kind, case, lambda case=case: read(case))
    return Result(list(tally.rows.values()), before, settled_memory())


def special_files(folder: Path, tally: Tally) -> None:
    """Pipes, sockets, devices, links that lead nowhere or in circles, folders."""
    os.mkfifo(folder / "pipe.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "dangling.png").symlink_to(folder / "nothing.png")
    (folder / "to-pipe.png").symlink_to(folder / "pipe.png")
    (folder / "to-device.png").symlink_to("/dev/zero")
    (folder / "to-random.png").symlink_to("/dev/random")
    (folder / "folder.png").mkdir()
    (folder / "sparse.png").touch()
    os.truncate(folder / "sparse.png", 10**12)
    for path in sorted(folder.iterdir()):
        tally.throw("special files", path.name.encode(), lambda path=path: read(path))


def pipeline_leg(tally: Tally, options: argparse.Namespace) -> Result:
    """`MAPPipeline`, from the input to the protected photo, with one step."""
    pipe = quick_pipeline()

    def protect(case: Any, **settings: Any) -> bool:
        try:
            pipe(case, mode="fast", refine_steps=1, expression_strength=0, **settings)
        except MAPError as error:
            check_refusal(error)
            return False
        return True

    large = [hostile.crowd(8, 8), hostile.bombs()[GIANT]]
    for sample in (*hostile.samples().values(), *hostile.faces().values(), *large):
        protect(sample)
    before = settled_memory()
    for columns, rows in ((5, 4), (60, 50)):  # 20 and 3,000 faces
        crowd = hostile.crowd(columns, rows)
        tally.throw("crowds", repr(crowd.size), lambda crowd=crowd: protect(crowd))
    for name in ("png size 40 x 30,000", "jpeg size 65,500 x 40", "png 7,000 x 7,000 of nothing"):
        bomb = hostile.bombs()[name]
        tally.throw("giant sizes", bomb, lambda bomb=bomb: protect(bomb))
    kinds = {"mutated photos of a face": hostile.mutants(hostile.faces()), **STRATEGIES}
    for kind, case in cases(kinds, options.seed, options.seconds, options.count):
        tally.throw(kind, case, lambda case=case: protect(case))
    return Result(list(tally.rows.values()), before, settled_memory())


def quick_pipeline() -> Any:
    from map_pipeline import MAPPipeline

    pipe = MAPPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def command_leg(tally: Tally, options: argparse.Namespace) -> Result:
    """`map_pipeline.cli.main.main` in this process; the networks are loaded once."""
    from map_pipeline.cli import protect
    from map_pipeline.cli.main import main as map_protect

    pipe = quick_pipeline()
    protect.load_pipeline = lambda *_: pipe
    folder = Path(tempfile.mkdtemp())
    photo = folder / "photo"

    def run(*arguments: str) -> bool:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = map_protect(
                ["protect", *arguments, *FAST, str(folder / "out" / "a.png"), "--overwrite"]
            )
        return judge_command(code, said.getvalue())

    def try_case(case: bytes) -> bool:
        photo.write_bytes(case)
        return run(str(photo))

    for sample in (*hostile.samples().values(), *hostile.faces().values()):
        try_case(sample)
    before = settled_memory()
    for bomb in hostile.bombs().values():
        tally.throw("bombs", bomb, lambda bomb=bomb: try_case(bomb))
    for name in hostile.NAMES:
        if not name.startswith("-"):  # an option, which argparse answers by itself
            tally.throw("names and paths", name, lambda name=name: run(name))
    kinds = {
        "mutated files": hostile.mutants(),
        "PNG of any chunks": hostile.chunk_soup(),
        "mutated photos of a face": hostile.mutants(hostile.faces()),
    }
    for kind, case in cases(kinds, options.seed, options.seconds, options.count):
        tally.throw(kind, case, lambda case=case: try_case(case))
    after = settled_memory()
    shutil.rmtree(folder)
    return Result(list(tally.rows.values()), before, after)


FAST = ("--mode=fast", "--refine-steps=1", "--expression-strength=0")


def judge_command(code: int, said: str) -> bool:
    """Whether a command did its work; a code or text that it must not give is a failure."""
    if code not in (0, 1, 2) or "Traceback" in said or "Error:" in said:
        raise AssertionError(f"exit code {code}: {said[-300:]}")
    if code and "map-protect: " not in said:
        raise AssertionError(f"exit code {code} without a reason: {said[-300:]}")
    return code == 0


def processes_leg(tally: Tally, options: argparse.Namespace) -> Result:
    """`python -m map_pipeline` as a process: a folder of hostile files, and single ones."""
    end = time.monotonic() + options.seconds
    tally.clock = children_time
    folder = Path(tempfile.mkdtemp())
    photos = folder / "photos"
    photos.mkdir()
    odd = [name for name in hostile.NAMES if name.endswith(".png") and "\0" not in name]
    files = dict(zip(odd, hostile.faces().values(), strict=False))
    mutants = draw(hostile.mutants(), options.seed, min(options.count, 300))
    files |= {f"{number}.png": mutant for number, mutant in enumerate(mutants)}
    for name, content in files.items():
        with contextlib.suppress(OSError, UnicodeEncodeError):  # not every name can be written
            (photos / name).write_bytes(content)
    # A run of a folder leaves hidden files out, as file managers do.
    thrown = sum(not path.name.startswith(".") for path in photos.iterdir())
    row = Row("processes", "a folder of mutated files", thrown)
    tally.rows[row.kind] = row
    started = children_time()
    code, said = run_process(str(photos), *FAST, str(folder / "out"))
    row.slowest = (children_time() - started) / thrown
    row.accepted = len(list((folder / "out").iterdir()))
    row.refused = sum(line.startswith("map-protect: ") for line in said.splitlines())
    try:
        judge_command(code, said)
        if row.accepted + row.refused != thrown:
            raise AssertionError(f"{thrown} files, {row.accepted} + {row.refused} answers")
    except AssertionError as error:
        tally.fail(row, said.encode(), str(error))

    def protect(bomb: bytes) -> bool:
        (folder / "bomb").write_bytes(bomb)
        return judge_command(*run_process(str(folder / "bomb"), *FAST, str(folder / "a.png")))

    for bomb in hostile.bombs().values():
        if time.monotonic() > end:
            break
        tally.throw("single bombs", bomb, lambda bomb=bomb: protect(bomb))
    left = [path.name for path in folder.rglob(".*.part")]
    if left:
        tally.fail(row, repr(left), "partial files are left")
    shutil.rmtree(folder)
    return Result(list(tally.rows.values()), 0, 0)


def children_time() -> float:
    """Computing time of all processes that this one started and that have ended, s."""
    times = os.times()
    return times.children_user + times.children_system


def run_process(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "map_pipeline", "protect", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=590
    )
    return done.returncode, done.stderr


# Names that an upload may claim; a browser sends any text.
UPLOADS = [name for name in hostile.NAMES if len(name) < 300 and name.isprintable() and name]


def page_leg(tally: Tally, options: argparse.Namespace) -> Result:
    """The running page: its endpoints by gradio_client, odd names and paths by plain HTTP."""
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    with running_page() as (url, process, log), tempfile.TemporaryDirectory() as folder:
        tally.clock = lambda: computing_time(process.pid)
        client = Client(url, verbose=False, download_files=folder)
        photo = Path(folder) / "photo"

        def throw(endpoint: str, content: bytes) -> bool:
            photo.write_bytes(content)
            settings = {"steps": 1, "expression_strength": 0} if endpoint == "/protect" else {}
            try:
                client.predict(photo=handle_file(photo), **settings, api_name=endpoint)
            except AppError as error:
                judge_page(str(error))
                return False
            return True

        large = [hostile.encode(hostile.crowd(8, 8), "JPEG"), hostile.bombs()[GIANT]]
        for sample in (*hostile.samples().values(), *hostile.faces().values(), *large):
            throw("/detect", sample)
        for sample in hostile.faces().values():
            throw("/protect", sample)
        before = resting_memory(process.pid)
        throw_names(tally, url)
        for bomb in hostile.bombs().values():
            tally.throw("/detect: bombs", bomb, lambda bomb=bomb: throw("/detect", bomb))
        many = hostile.encode(hostile.crowd(60, 50), "JPEG")
        tally.throw("/detect: 3,000 faces", many, lambda: throw("/detect", many))
        kinds = {
            "/detect: mutated files": hostile.mutants(),
            "/detect: PNG of any chunks": hostile.chunk_soup(),
            "/protect: mutated files": hostile.mutants(hostile.samples() | hostile.faces()),
        }
        for kind, case in cases(kinds, options.seed, options.seconds, options.count):
            end = kind.partition(":")[0]
            tally.throw(kind, case, lambda case=case, end=end: throw(end, case))
        tally.throw("/detect: a good photo at the end", b"", lambda: still_works(throw))
        after = resting_memory(process.pid)
        written = Path(log).read_text(errors="replace")
        if re.search(r"^\w+ at$", written, re.MULTILINE):  # how the page logs an error of its own
            row = tally.rows.setdefault("log of the page", Row("page", "log of the page"))
            tally.fail(row, written.encode(), "the log holds an error")
    return Result(list(tally.rows.values()), before, after)


def still_works(throw: Callable[[str, bytes], bool]) -> bool:
    if not throw("/detect", hostile.faces()["png"]):
        raise AssertionError("the page doesn't take a good photo any more")
    return True


def throw_names(tally: Tally, url: str) -> None:
    """Uploads under odd names, and paths and addresses that nobody uploaded, by plain HTTP."""
    import httpx

    http = httpx.Client(base_url=f"{url}gradio_api/", timeout=DEAD)

    def detect(photo: dict) -> bool:
        data = {"data": [photo | {"meta": {"_type": "gradio.FileData"}}, "auto", False]}
        started = http.post("call/detect", json=data)
        if started.status_code != 200:
            return judge_answer(started)
        answer = http.get(f"call/detect/{started.json()['event_id']}")
        if "event: complete" in answer.text:
            return True
        return judge_answer(answer)

    def upload(name: str, content: bytes) -> bool:
        answer = http.post("upload", files={"files": (name, content)})
        if answer.status_code != 200:
            return judge_answer(answer)
        path = answer.json()[0]
        check_served(http.get(f"file={path}"))
        return detect({"path": path})

    contents = [*hostile.samples().values(), hostile.SVG, hostile.HTML, hostile.ENTITIES]
    for number, name in enumerate([*UPLOADS, "a.svg", "a.html", "a.xhtml", "a.js", "a.xml"] * 2):
        content = contents[number % len(contents)]
        tally.throw("/detect: names", name, lambda n=name, c=content: upload(n, c))
    for name in hostile.NAMES:
        if name.encode(errors="ignore").decode() == name:  # JSON holds no half characters
            for key in ("path", "url"):
                tally.throw("/detect: paths", name, lambda k=key, n=name: refused(detect({k: n})))


def refused(accepted: bool) -> bool:
    if accepted:
        raise AssertionError("the page read a file that nobody uploaded")
    return False


def judge_answer(answer: Any) -> bool:
    """An HTTP answer that isn't a result: refused without insight into the server."""
    if answer.status_code >= 500 or "Traceback" in answer.text or 'File "' in answer.text:
        raise AssertionError(f"HTTP {answer.status_code}: {answer.text[:300]}")
    return False


def check_served(answer: Any) -> None:
    """An upload comes back, if at all, as something that a browser doesn't run."""
    kind = answer.headers.get("content-type", "")
    attached = "attachment" in answer.headers.get("content-disposition", "")
    harmless = kind.startswith("image/") and "svg" not in kind
    if answer.status_code == 200 and not attached and not harmless:
        raise AssertionError(f"an upload is served as {kind}")


def judge_page(text: str) -> None:
    """An error that a visitor may see: ours, in plain words."""
    ours = ("image must", "faces must", "Choose a photo", "No face", "Face ", "This upload")
    if "Traceback" in text or "on our side" in text or not text.startswith(ours):
        raise AssertionError(f"a visitor reads: {text[:300]}")


@contextlib.contextmanager
def running_page() -> Iterator[tuple[str, subprocess.Popen, str]]:
    """The page as `python app.py` starts it, in a process of its own."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp()
    log = f"{folder}/log"
    settings = {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_TEMP_DIR": folder,
        "PYTHONUNBUFFERED": "1",
        # By default each thread that works for the first time gets a pool of 150 MB or so, which
        # looks like a leak.
        "MALLOC_ARENA_MAX": "2",
    }
    with open(log, "w") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=output,
            stderr=output,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/", process)
            yield f"http://127.0.0.1:{port}/", process, log
        finally:
            process.terminate()
            process.wait(30)
            shutil.rmtree(folder)


def wait_for(url: str, process: subprocess.Popen) -> None:
    import httpx

    for _ in range(240):
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        if process.poll() is not None:
            break
        time.sleep(0.5)
    raise RuntimeError("the page doesn't start")


LEGS = {
    "gate": gate_leg,
    "pipeline": pipeline_leg,
    "command": command_leg,
    "processes": processes_leg,
    "page": page_leg,
}


def run_leg(name: str, options: argparse.Namespace) -> None:
    """The process of one leg: writes its `Result` as JSON."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    started = time.monotonic()
    result = LEGS[name](Tally(name, options.keep), options)
    result.seconds = time.monotonic() - started
    (options.keep / f"{name}.json").write_text(json.dumps(asdict(result)))


def start_leg(name: str, options: argparse.Namespace) -> Result:
    """Run a leg in a process and read its result; a process that dies is a failure."""
    seconds = options.seconds * SHARES[name] / sum(SHARES[leg] for leg in options.legs)
    arguments = {"leg": name, "seconds": seconds, "count": options.count, "seed": options.seed}
    command = [sys.executable, __file__, f"--keep={options.keep}"]
    command += [f"--{key}={value}" for key, value in arguments.items()]
    (options.keep / f"{name}.json").unlink(missing_ok=True)
    with open(options.keep / f"{name}.log", "w") as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log).returncode
    try:
        content = json.loads((options.keep / f"{name}.json").read_text())
    except OSError:
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        text = f"the process ended with {how}; see {name}.log and last-{name}"
        return Result([Row(name, "crash", 1, failures=[text])], 0, 0)
    return Result([Row(**row) for row in content.pop("rows")], **content)


def table(results: list[Result]) -> str:
    """Markdown: what was thrown where, how many, what became of it."""
    lines = [
        "| where | what | thrown | accepted | refused cleanly | failures | longest computing |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows = [row for result in results for row in result.rows]
    for row in rows:
        numbers = f"{row.thrown:,} | {row.accepted:,} | {row.refused:,} | {len(row.failures)}"
        lines.append(f"| {row.leg} | {row.kind} | {numbers} | {row.slowest:.1f} s |")
    thrown, accepted, refused, failures = (
        sum(values)
        for values in zip(
            *((r.thrown, r.accepted, r.refused, len(r.failures)) for r in rows), strict=True
        )
    )
    slowest = max(row.slowest for row in rows)
    numbers = f"{thrown:,} | {accepted:,} | {refused:,} | {failures}"
    lines.append(f"| **all** | | {numbers} | {slowest:.1f} s |")
    lines += ["", "| where | seconds | memory when warm | at the end |"]
    lines += ["| --- | --- | --- | --- |"]
    for one in results:
        place, numbers = one.rows[0].leg, f"{one.before:.0f} MB | {one.after:.0f} MB"
        numbers = numbers if one.before else "- | -"
        lines.append(f"| {place} | {one.seconds:.0f} | {numbers} |")
    return "\n".join(lines)


def main() -> int:
    """Run the campaign; exit code 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="for all legs together")
    parser.add_argument("--count", type=int, default=20_000, help="cases for each leg, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--legs", nargs="+", choices=tuple(LEGS), default=list(LEGS))
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "map-fuzz")
    parser.add_argument("--leg", choices=tuple(LEGS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    if options.leg:
        run_leg(options.leg, options)
        return 0
    results = [start_leg(name, options) for name in options.legs]
    print(table(results))
    failures = [text for result in results for row in result.rows for text in row.failures]
    failures += [
        f"{result.rows[0].leg}: memory grew from {result.before:.0f} to {result.after:.0f} MB"
        for result in results
        if result.after > result.before + GROWTH
    ]
    print("\n".join(["", *failures, f"{len(failures)} failures; kept in {options.keep}"]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
