"""Hostile pictures for the package: its gate, the pipeline and the command line."""

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import hostile
from fuzz_cases import (
    Result,
    Row,
    Tally,
    cases,
    children_time,
    draw,
    settled_memory,
)

from map_pipeline.errors import MAPError
from map_pipeline.images import MAX_PIXELS, MIN_SIDE, load_image, load_photo

ROOT = Path(__file__).parents[2]
GIANT = "png 7,000 x 7,000 of nothing"
FAST = ("--mode=fast", "--refine-steps=1", "--expression-strength=0")


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


def run_process(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "map_pipeline", "protect", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=590
    )
    return done.returncode, done.stderr
