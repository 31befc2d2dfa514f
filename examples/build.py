"""Make the pictures of this folder anew: `python -m examples.build`, from the repository root.

Takes the example photos from free sources (see README.md), protects each as its line in
examples.json says, and draws the pictures of the project's README and of shared links.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.cbook import get_sample_data
from PIL import Image, ImageDraw

from examples.card import draw_card
from map_pipeline import MAPPipeline
from map_pipeline.identity.targets import TargetBank
from map_pipeline.images import load_image

FOLDER = Path(__file__).parent
LANCZOS = Image.Resampling.LANCZOS
HEAD = (96, 0, 352, 256)  # of astronaut.png, px
TILE, GAP = 200, 8  # of the video call, px


def make_photos(targets: TargetBank) -> None:
    """Write the photos that are derived from others; astronaut.png is a source."""
    astronaut = load_image(FOLDER / "astronaut.png")
    hopper = load_image(get_sample_data("grace_hopper.jpg", asfileobj=False))
    for name in ("woman-young-tan", "man-older-dark"):
        save(targets.picture(name).resize((256, 256), LANCZOS), f"{name}.png")
    grey = hopper.resize((384, 450), LANCZOS).convert("L").convert("RGB")
    save(grey, "hopper-grey.png")
    others = [targets.picture(name) for name in ("man-older-tan", "woman-older-medium")]
    people = [others[0], astronaut.crop(HEAD), others[1], targets.picture("man-older-dark")]
    save(video_call(people), "video-call.png")


def video_call(people: list[Image.Image]) -> Image.Image:
    """Four square pictures as tiles with round corners."""
    side = 2 * TILE + 3 * GAP
    call = Image.new("RGB", (side, side), "#202124")
    # Drawn at four times the size for smooth corners.
    corners = Image.new("L", (4 * TILE, 4 * TILE))
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 4 * TILE - 1, 4 * TILE - 1), 48, 255)
    corners = corners.resize((TILE, TILE), LANCZOS)
    for i, person in enumerate(people):
        row, column = divmod(i, 2)
        place = (GAP + column * (TILE + GAP), GAP + row * (TILE + GAP))
        call.paste(person.resize((TILE, TILE), LANCZOS), place, corners)
    return call


def save(image: Image.Image, name: str) -> None:
    """Write a PNG as small as it gets, as these are in every clone; the package favours speed."""
    pixels = image.copy()
    pixels.info = {}
    pixels.save(FOLDER / name, optimize=True)


def protect(pipe: MAPPipeline, example: dict[str, Any]) -> None:
    """Write the protected photo and the report of one line of examples.json."""
    output = pipe(
        FOLDER / example["photo"],
        emotion=example["emotion"],
        target=example["target"],
        faces=example["faces"],
        mode=example["mode"],
        generator=torch.Generator().manual_seed(example["seed"]),
    )
    save(output.images[0], example["protected"])
    reports = [report.to_dict() for report in output.reports[0]]
    (FOLDER / example["report"]).write_text(json.dumps(reports, indent=1) + "\n")
    print(example["photo"])
    for report in output.reports[0]:
        print(report.to_table(), end="\n\n")


def draw_before_after() -> None:
    """The picture of the project's README: the astronaut's head before and after."""
    both = Image.new("RGB", (512, 256))
    for i, name in enumerate(("astronaut.png", "astronaut.protected.png")):
        both.paste(load_image(FOLDER / name).crop(HEAD), (256 * i, 0))
    both.save(FOLDER / "results" / "before_after.jpg", quality=88, optimize=True)


def main() -> None:
    """Make everything, or only the named examples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="*", help="such as astronaut.png; default: all of them")
    chosen = parser.parse_args().photos
    pipe = MAPPipeline.from_pretrained()
    make_photos(pipe.targets)
    for example in json.loads((FOLDER / "examples.json").read_text()):
        if not chosen or example["photo"] in chosen:
            protect(pipe, example)
    draw_before_after()
    draw_card()


if __name__ == "__main__":
    main()
