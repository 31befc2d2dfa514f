"""Draw the picture that is shown where a link to the Space is shared: `python -m examples.card`."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).parent
CARD = FOLDER / "results" / "card.jpg"
PHOTO = "man-older-dark"  # nobody real, so nobody seems to recommend anything
SENTENCE = "Recognisable to friends, not to face recognition"
SIZE = (1200, 630)  # px, as social networks show a card
SIDE, GAP, TOP = 456, 24, 40  # of the two pictures, px
LETTERS = 44  # px


def draw_card() -> None:
    """Write the card: a face before and after, and one sentence."""
    card = Image.new("RGB", SIZE, "#1e1b4b")
    left = (SIZE[0] - 2 * SIDE - GAP) // 2
    for i, name in enumerate((f"{PHOTO}.png", f"{PHOTO}.protected.png")):
        with Image.open(FOLDER / name) as photo:
            face = photo.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        card.paste(face, (left + i * (SIDE + GAP), TOP))
    below = TOP + SIDE
    middle = (SIZE[0] // 2, (below + SIZE[1]) // 2)
    font = ImageFont.load_default(LETTERS)
    ImageDraw.Draw(card).text(middle, SENTENCE, "white", font, anchor="mm")
    card.save(CARD, quality=80, optimize=True)


if __name__ == "__main__":
    draw_card()
