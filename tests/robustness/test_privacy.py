"""Nothing of a photo is left behind and nobody is called: place, name and pixels of a marked one
are looked for wherever a program could leave them."""

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ASTRONAUT
from PIL import Image

from map_pipeline import MAPPipeline

ROOT = Path(__file__).parents[2]
NAME = "Zeta-Qoph-7391"
CAMERA = "CameraOfZetaQoph"
GPS_IFD = 0x8825
# 48 deg 12' 29.8764": also as decimal degrees, and as the bytes of the EXIF block's fractions.
LATITUDE = (48.0, 12.0, 29.8764)
PLACE_TEXTS = (b"48.2083", b"29.8764")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A JPEG with place and camera in its EXIF block, under a name that can be looked for."""
    image = Image.open(ASTRONAUT).convert("RGB").crop((96, 0, 352, 256))
    exif = Image.Exif()
    exif[0x010F] = CAMERA
    exif.get_ifd(GPS_IFD).update({1: "N", 2: LATITUDE, 3: "E", 4: (16.0, 22.0, 25.6389)})
    path = tmp_path / "in" / f"{NAME}.jpg"
    path.parent.mkdir()
    image.save(path, quality=95, exif=exif)
    assert Image.open(path).getexif().get_ifd(GPS_IFD)[2] == LATITUDE  # it did go in
    return path


def marks(photo: Path) -> list[bytes]:
    """What would give the photo away: name, camera, place, and pieces of its file and pixels."""
    data = photo.read_bytes()
    pixels = np.array(Image.open(photo).convert("RGB"))
    at = data.index((48).to_bytes(4, "big") + (1).to_bytes(4, "big"))  # the fraction 48/1
    place = data[at : at + 24]  # degrees, minutes and seconds
    pieces = [data[at : at + 48] for at in range(2000, len(data) - 48, 4000)]
    rows = [pixels[y, 96:128].tobytes() for y in range(60, 180, 20)]
    return [NAME.encode(), CAMERA.encode(), *PLACE_TEXTS, place, *pieces, *rows]


def traces(folder: Path, photo: Path) -> list[str]:
    """Files below a folder whose name or content holds a mark, or that are pictures at all."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if NAME in path.name or any(mark in content for mark in marks(photo)) or _is_picture(path):
            found.append(path.relative_to(folder).as_posix())
    return found


def _is_picture(path: Path) -> bool:
    try:
        Image.open(path).close()
    except OSError:
        return False
    return True


JFIF = {"jfif", "jfif_version", "jfif_unit", "jfif_density"}  # the header of every JPEG


def assert_clean(result: Path | bytes) -> None:
    """The result holds pixels and nothing else."""
    data = result if isinstance(result, bytes) else result.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        assert not image.getexif()
        assert image.info.keys() <= JFIF
    for mark in (NAME.encode(), CAMERA.encode(), *PLACE_TEXTS):
        assert mark not in data


def test_the_search_finds_a_copy(photo: Path, tmp_path: Path) -> None:
    """The tests below could not fail if it didn't."""
    folder = tmp_path / "searched"
    folder.mkdir()
    pixels = np.array(Image.open(photo).convert("RGB"))
    (folder / "a.dat").write_bytes(b"before" + photo.read_bytes()[1000:9000])
    (folder / "b.npy").write_bytes(pixels.tobytes())
    (folder / "c.log").write_text(f"read {NAME}.jpg")
    (folder / f"d-{NAME}").write_text("")
    (folder / "e.tmp").write_bytes((ROOT / "examples" / "astronaut.png").read_bytes())
    (folder / "f.log").write_text("harmless")
    assert sorted(name[0] for name in traces(folder, photo)) == ["a", "b", "c", "d", "e"]


def test_python_leaves_nothing(
    tiny_pipeline: MAPPipeline,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture,
) -> None:
    places = [tmp_path / name for name in ("home", "temp", "work")]
    for place in places:
        place.mkdir()
    monkeypatch.setenv("HOME", str(places[0]))
    monkeypatch.setattr("tempfile.tempdir", str(places[1]))
    monkeypatch.chdir(places[2])
    caplog.set_level(logging.DEBUG)
    output = tiny_pipeline(photo, refine_steps=1)
    buffer = io.BytesIO()
    output.images[0].save(buffer, "PNG")
    assert_clean(buffer.getvalue())
    assert [traces(place, photo) for place in places] == [[], [], []]
    said = caplog.text + "".join(capfd.readouterr()) + output.reports[0][0].to_json()
    for mark in (NAME, CAMERA, "48.2083", "29.8764"):
        assert mark not in said


# Runs the command line and writes every attempt to reach another machine to the file descriptor 3.
WATCHED = """
import os, sys
def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"):
        os.write(3, f"{event} {arguments!r}\\n".encode())
        raise OSError("the network is blocked")
sys.addaudithook(watch)
from map_pipeline.cli.main import main
for call in sys.argv[1].split(";"):
    code = main(call.split())
    if code:
        sys.exit(f"{call}: {code}")
"""


@pytest.mark.slow
def test_command_line_leaves_nothing_and_calls_nobody(
    tiny_checkpoint: Path, photo: Path, tmp_path: Path
) -> None:
    """Also with the home, cache and temporary folders of a fresh account, and offline mode set."""
    home, temp, out = (tmp_path / name for name in ("home", "temp", "out"))
    for folder in (home, temp):
        folder.mkdir()
    calls = (
        f"info --checkpoint {tiny_checkpoint} --device cpu;"
        f"targets --checkpoint {tiny_checkpoint} --device cpu;"
        f"protect {photo} {out / 'a.png'} --checkpoint {tiny_checkpoint} --device cpu "
        "--refine-steps 1"
    )
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    read, write = os.pipe()
    code = f"import os; os.dup2({write}, 3)\n{WATCHED}"
    done = subprocess.run(
        [sys.executable, "-c", code, calls],
        cwd=ROOT,
        env={**kept, "HOME": str(home), "TMPDIR": str(temp), "HF_HUB_OFFLINE": "1"},
        pass_fds=[write],
        capture_output=True,
        text=True,
    )
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == ""
    assert done.returncode == 0, done.stderr
    assert traces(home, photo) == traces(temp, photo) == []
    # Nor caches or identifiers of libraries: onnxruntime makes one for its telemetry.
    assert [path for path in (*home.rglob("*"), *temp.rglob("*")) if path.is_file()] == []
    assert [path.name for path in out.iterdir()] == ["a.png"]
    assert_clean(out / "a.png")
    for mark in (NAME, CAMERA, "48.2083", "29.8764"):
        assert mark not in done.stdout + done.stderr


@pytest.fixture(scope="module")
def called() -> Iterator[list[str]]:
    """Every other machine that this process tries to reach from now on."""
    hosts: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple) -> None:
        if watching and event in ("socket.getaddrinfo", "socket.connect"):
            address = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
            host = address[0] if isinstance(address, tuple) else address
            if host not in ("127.0.0.1", "::1", "localhost", "0.0.0.0", None):
                hosts.append(str(host))

    sys.addaudithook(watch)  # it can't be taken away again
    yield hosts
    watching = False


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the page keeps uploads, and the only place among the temporary files for it."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    for name in ("home", "temp", "cache"):
        (tmp_path / name).mkdir()
    return tmp_path / "cache"


@pytest.mark.slow
def test_page_leaves_nothing_once_its_cache_is_swept_and_calls_nobody(
    cache: Path,
    called: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_pipeline: MAPPipeline,
    tiny_checkpoint: Path,
    photo: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture,
) -> None:
    from gradio_client import Client, handle_file
    from serving import running_page

    from map_pipeline.ui.cache import sweep
    from map_pipeline.ui.settings import PageSettings

    caplog.set_level(logging.INFO)
    settings = PageSettings(checkpoint=tiny_checkpoint)
    with running_page(settings, tiny_pipeline) as page:
        assert called == []
        # The client itself asks the Hub for something; that isn't the page.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
        client = Client(page.local_url, verbose=False, download_files=str(tmp_path / "downloads"))
        called.clear()
        result = client.predict(photo=handle_file(photo), steps=1, api_name="/protect")
    assert called == []
    assert_clean(Path(result[0]))
    assert traces(cache, photo)  # the upload is there for some minutes
    sweep(cache, keep_seconds=0)  # files
    sweep(cache, keep_seconds=0)  # and the folders, now empty
    assert traces(cache, photo) == []
    assert traces(tmp_path / "home", photo) == traces(tmp_path / "temp", photo) == []
    # httpx logs at the client's side what it sends; the server must not.
    said = "".join(one.getMessage() for one in caplog.records if one.name != "httpx")
    said += "".join(capfd.readouterr()) + str(result[1:])
    for mark in (NAME, CAMERA, "48.2083", "29.8764"):
        assert mark not in said
