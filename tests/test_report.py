import json
import math
from dataclasses import replace

import pytest

from map_pipeline.report import (
    ExpressionReport,
    FaceReport,
    PhotoReport,
    RecogniserReport,
    expression_row,
    face_numbers,
    format_table,
    recogniser_row,
)


def recogniser(impersonates: bool | None, no_longer_matches: bool | None) -> RecogniserReport:
    return RecogniserReport(
        name="net",
        title="Net 29",
        family="nets",
        used_in_optimisation=True,
        thresholds={} if impersonates is None else {"0.01": 0.5, "0.001": 0.75},
        target_before=0.125,
        target_after=0.625,
        source_after=0.25,
        impersonates=impersonates,
        no_longer_matches=no_longer_matches,
    )


def report(psnr: float = 31.26) -> FaceReport:
    return FaceReport(
        box=(10.4, 20.6, 110.0, 140.0),
        detector="a detector",
        emotion="happy",
        target="somebody",
        ssim=0.95649,
        psnr=psnr,
        seconds=12.34,
        recognisers=[recogniser(True, False), recogniser(None, None)],
        expressions=[
            ExpressionReport(
                name="faces",
                title="Faces net",
                used_in_optimisation=True,
                before={"happy": 0.25, "sad": 0.75},
                after={"happy": 0.875, "sad": 0.125},
            )
        ],
    )


def test_table_names_single_movements_and_the_copied_photo() -> None:
    moved = replace(report(), action_units={"smile": 0.5, "brows_up": -0.3})
    assert "emotion happy with smile +0.5, brows_up -0.3, target" in moved.to_table()
    copied = replace(report(), expression_of="other.jpg")
    assert "expression of other.jpg, target" in copied.to_table()


def test_no_network_gives_a_probability_of_what_it_does_not_know() -> None:
    face = replace(report(), emotion="contempt")
    assert expression_row(face.expressions[0], face) == ["Faces net", "-", "sad -> happy"]


@pytest.mark.parametrize(
    ("impersonates", "no_longer_matches", "words"),
    [(True, False, ("yes", "NO")), (False, True, ("NO", "yes")), (None, None, ("-", "-"))],
)
def test_verdicts_in_words(
    impersonates: bool | None, no_longer_matches: bool | None, words: tuple[str, str]
) -> None:
    row = recogniser_row(recogniser(impersonates, no_longer_matches))
    assert (row[4], row[6]) == words
    assert row[2] == ("-" if impersonates is None else "0.500")
    assert row[3] == "0.125 -> 0.625"
    assert row[5] == "1.000 -> 0.250"


def test_table_tells_everything() -> None:
    lines = report().to_table().splitlines()
    assert lines[0] == "face at 10,21 - 110,140 px, a detector; emotion happy, target somebody"
    assert lines[1] == "SSIM 0.956, PSNR 31.3 dB, 12.3 s"
    assert lines[3].split("  ")[0] == "recogniser"
    assert "Net 29" in lines[5]
    assert lines[5].endswith("NO")
    assert lines[6].endswith("-")
    assert lines[-1].split() == ["Faces", "net", "0.25", "->", "0.88", "sad", "->", "happy"]


def test_table_without_networks() -> None:
    empty = FaceReport((0, 0, 1, 1), "d", "sad", "t", 1.0, math.inf, 0.0)
    assert "PSNR inf dB" in empty.to_table()
    assert json.loads(empty.to_json())["recognisers"] == []


def test_columns_are_aligned() -> None:
    lines = format_table(("a", "long header"), [["first cell", "x"], ["y", "z"]])
    assert lines == [
        "a           long header",
        "----------  -----------",
        "first cell  x",
        "y           z",
    ]
    assert format_table(("a", "b"), []) == ["a  b", "-  -"]


def test_json_holds_the_whole_report() -> None:
    values = json.loads(report().to_json())
    assert values == report().to_dict()
    assert values["box"] == [10.4, 20.6, 110.0, 140.0]
    assert values["psnr"] == 31.26
    first, second = values["recognisers"]
    assert first["thresholds"] == {"0.01": 0.5, "0.001": 0.75}
    assert (first["impersonates"], first["no_longer_matches"]) == (True, False)
    assert second["impersonates"] is None
    assert values["expressions"][0]["after"] == {"happy": 0.875, "sad": 0.125}


def test_infinite_psnr_is_valid_json() -> None:
    text = report(psnr=math.inf).to_json()
    assert json.loads(text, parse_constant=pytest.fail)["psnr"] is None


def test_faces_are_numbered_by_their_size_among_all() -> None:
    photo = PhotoReport(4, [(0.0, 0.0, 30.0, 30.0), (0.0, 0.0, 10.0, 10.0)])
    boxes = [(0.0, 0.0, 20.0, 20.0), (0.0, 0.0, 40.0, 40.0)]
    faces = [replace(report(), box=box, photo=photo) for box in boxes]
    assert face_numbers(faces) == [3, 1]
    assert face_numbers([replace(one, photo=None) for one in faces]) == [2, 1]


def test_faces_of_the_photo_are_in_json_and_table() -> None:
    photo = PhotoReport(3, [(1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)], [(0.0, 0.0, 9.0, 9.0)])
    one = replace(report(), photo=photo)
    values = json.loads(one.to_json())["photo"]
    assert values == {
        "faces_found": 3,
        "faces_unprotected": 2,
        "unprotected": [[1, 2, 3, 4], [5, 6, 7, 8]],
        "doubtful": [[0, 0, 9, 9]],
        "notes": [],
    }
    assert PhotoReport.from_dict(values) == photo
    assert "3 faces found, 2 left unprotected" in one.to_table().splitlines()
    alone = replace(report(), photo=PhotoReport(1))
    assert alone.to_table() == report().to_table()
