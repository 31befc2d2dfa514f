"""Hostile pictures, names and paths for the running page."""

import argparse
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
from fuzz_cases import (
    DEAD,
    Result,
    Row,
    Tally,
    cases,
    computing_time,
    resting_memory,
)
from fuzz_package import GIANT
from page_process import running_page

# Rounds until the page's memory counts: Gradio has forty threads, and each keeps some from its
# first photo on. After one round the page grew by 200 MB in a campaign, after five by 10 MB.
WARMING = 5
# By default each thread that works for the first time gets a pool of 150 MB or so, which looks like
# a leak.
SETTINGS = {"MALLOC_ARENA_MAX": "2"}
# Names that an upload may claim; a browser sends any text.
UPLOADS = [name for name in hostile.NAMES if len(name) < 300 and name.isprintable() and name]


def page_leg(tally: Tally, options: argparse.Namespace) -> Result:
    """The running page: its endpoints by gradio_client, odd names and paths by plain HTTP."""
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    with (
        tempfile.TemporaryDirectory() as folder,
        running_page([sys.executable, "app.py"], Path(folder), SETTINGS) as (url, process, _, log),
    ):
        tally.clock = lambda: computing_time(process.pid)
        client = Client(url, verbose=False, download_files=f"{folder}/downloads")
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
        for _ in range(WARMING):
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
        written = log.read_text(errors="replace")
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
