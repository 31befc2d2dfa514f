import copy

import pytest
from synthetic import make_summary

from map_pipeline.cli.evaluate import config_of
from map_pipeline.cli.main import build_parser
from map_pipeline.evaluation import wording

NOTHING = {"rate": None, "low": None, "high": None, "n": 0}


@pytest.fixture(scope="module")
def made() -> dict:
    return make_summary(n=6)[0]


@pytest.fixture
def summary(made: dict) -> dict:
    """A copy that a test may change."""
    return copy.deepcopy(made)


def set_pooled(summary: dict, method: str, key: str, rate: float, low: float, high: float) -> None:
    for entry in summary["methods"][method]["mean_unseen"]:
        if entry["transformation"] == "none":
            entry[key] = {"rate": rate, "low": low, "high": high, "n": 40}


def test_the_headline_tells_both_rates_and_the_hardest_judge(summary: dict) -> None:
    set_pooled(summary, "map", "dodging", 0.875, 0.7391, 0.9454)
    set_pooled(summary, "map", "dodging_clean", 0.025, 0.0044, 0.1288)
    set_pooled(summary, "map", "impersonation", 0.9, 0.7695, 0.9604)
    for entry in summary["methods"]["map"]["verification"]:
        if entry["recogniser"] == "faceres" and entry["unseen"]:
            entry["dodging"] = {"rate": 0.0, "low": 0.0, "high": 0.5, "n": 4}
    text = " ".join(wording.headline(summary))
    assert "87.5 % (74-95) no longer match another photo of the same person (2.5 % before)" in text
    assert "90.0 % (77-96) match another photo of the target" in text
    assert "n = 40." in text
    assert "Hardest to dodge of those not used: FaceRes, 0.0 % (0-50) at FAR 1 %, n = 4." in text
    assert "could not be protected" not in text


def test_the_weakest_point_is_told(summary: dict) -> None:
    entries = summary["methods"]["map"]["mean_unseen"]
    for entry in entries:
        low = {"purify200": 0.25, "grey": 0.5}.get(entry["transformation"], 0.75)
        entry["dodging"] = {"rate": low, "low": low - 0.1, "high": low + 0.1, "n": 40}
    assert wording.robustness_facts(summary)[0] == (
        "Of 11 transformations, purified, t = 200 leaves the least dodging: 25.0 % (15-35)."
    )


def test_photos_that_are_as_saved_are_no_transformation(summary: dict) -> None:
    for entry in summary["methods"]["map"]["mean_unseen"]:
        low = 0.0 if entry["transformation"] == "none" else 0.75
        entry["dodging"] = {"rate": low, "low": low, "high": low, "n": 40}
    assert "75.0 %" in wording.robustness_facts(summary)[0]


def test_two_protected_photos_of_a_person_are_told_apart_from_attacks(summary: dict) -> None:
    (entry,) = (
        e
        for e in summary["methods"]["map"]["mean_unseen"]
        if (e["transformation"], e["far"]) == ("grey", "0.01")
    )
    for method in summary["methods"].values():
        for one in method["verification"]:
            if one["transformation"] == "grey":
                one["transformation"] = "protected_pair"
    entry["transformation"] = "protected_pair"
    entry["dodging"] = {"rate": 0.0, "low": 0.0, "high": 0.09, "n": 40}
    entry["dodging_clean"] = {"rate": 0.1, "low": 0.04, "high": 0.23, "n": 40}
    facts = wording.robustness_facts(summary)
    assert facts[-1] == (
        "If both photos of a person are protected, 0.0 % (0-9) no longer match each other "
        "(10.0 % before)."
    )
    assert all("both photos protected" not in fact for fact in facts[:-1])
    assert "Protected against protected" not in dict(wording.not_computed(summary))


def test_the_headline_tells_failures(summary: dict) -> None:
    summary["methods"]["map"]["failures"] = [{"photo": "1", "status": "no face"}]
    assert "1 photo could not be protected" in wording.headline(summary)[-1]


def test_without_a_recogniser_left_out_the_headline_claims_no_black_box(summary: dict) -> None:
    summary["methods"]["map"]["mean_unseen"] = []
    lines = wording.headline(summary)
    assert lines[0].startswith("No recogniser was left out")
    assert "(--leave-out)" in dict(wording.not_computed(summary))["MAP on recognisers left out"]


def test_people_without_a_second_photo_leave_no_dodging_rate(summary: dict) -> None:
    for method in summary["methods"].values():
        for entry in method["mean_unseen"] + method["verification"]:
            entry["dodging"] = entry["dodging_clean"] = NOTHING
    text = " ".join(wording.headline(summary))
    assert "- no longer match" in text
    assert "Hardest" not in text


def test_an_ablation_is_told_by_points_and_overlap(summary: dict) -> None:
    summary["ablations"] = {}  # the figures below stand for photos that all protected
    set_pooled(summary, "map", "impersonation", 0.95, 0.8350, 0.9862)
    set_pooled(summary, "map-no-ema", "impersonation", 0.90, 0.7695, 0.9604)
    set_pooled(summary, "map", "dodging", 0.95, 0.8350, 0.9862)
    set_pooled(summary, "map-no-ema", "dodging", 0.25, 0.1419, 0.4019)
    for name, psnr, ssim in (("map", 30.0, 0.95), ("map-no-ema", 31.26, 0.95)):
        summary["methods"][name]["quality"]["psnr"]["mean"] = psnr
        summary["methods"][name]["quality"]["ssim"]["mean"] = ssim
        summary["methods"][name]["expression"] = None
    facts = {fact.split(" against")[0]: fact for fact in wording.ablation_facts(summary)}
    assert facts["MAP without EMA"] == (
        "MAP without EMA against MAP: impersonation -5.0 points (intervals overlap), dodging "
        "-70.0 points (intervals do not overlap), PSNR +1.3 dB, SSIM +0.000."
    )
    assert len(facts) == 4


def test_ablations_are_told_on_the_photos_that_all_protected(summary: dict) -> None:
    summary["ablations"]["map"]["quality"]["psnr"]["mean"] = 12.3
    assert "12.3 dB" in wording.ablation_table(summary)[1][0]


def test_every_run_into_the_folder_is_told(summary: dict) -> None:
    assert wording.commands(summary) == [wording.command(summary)]
    first = {**summary["config"], "seed": 5}
    found = wording.commands({**summary, "runs": [first, summary["config"]]})
    assert "--seed=5" in found[0]
    assert found[1] == wording.command(summary)


def test_the_ablation_table_starts_with_the_full_method(summary: dict) -> None:
    header, rows = wording.ablation_table(summary)
    assert [row[0] for row in rows][:2] == ["MAP", "MAP without projection"]
    assert len(rows) == 5
    assert all(len(row) == len(header) for row in rows)


def test_without_the_full_method_ablations_arent_compared(summary: dict) -> None:
    del summary["methods"]["map"]
    assert list(wording.ablation_facts(summary)) == []


def test_the_command_is_repeatable_and_names_no_folder(summary: dict) -> None:
    command = wording.command(summary)
    assert command == (
        "map-protect evaluate --pairs=pairs.zip --limit=6 "
        "--methods=map,mifgsm,tidim,pgd,tipim,blur --ablations --emotion=all --out=dev"
    )
    options = build_parser().parse_args(command.split()[1:])
    again = config_of(options)
    changed = {key for key, value in again.items() if value != summary["config"][key]}
    assert changed == {"pairs", "out"}  # only their folders


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("pairs", "photos/set.zip", "set.zip"),
        ("pairs", "C:\\photos\\set.zip", "set.zip"),
        ("checkpoint", "user/repo", "user/repo"),
        ("checkpoint", "/home/user/weights", "weights"),
        ("checkpoint", "./weights", "weights"),
        ("targets", ["targets/1", "2"], "targets/1, 2"),
        ("limit", None, "-"),
        ("seed", 3, "3"),
        ("emotion", "happy", "happy"),
    ],
)
def test_settings_show_no_folder_of_the_machine(name: str, value: object, shown: str) -> None:
    assert wording.settings({"config": {name: value}}) == {name: shown}


def test_what_was_not_computed_is_told_with_its_reason(summary: dict) -> None:
    missing = dict(wording.not_computed(summary))
    assert missing["LPIPS"] == missing["FID"] == "weights absent"
    assert missing["Face++ compare"] == "off by default (--facepp)"
    assert missing["Uncommon styles of the photos"] == "not asked for (--styles)"
    assert missing["Protected against protected"] == "not asked for (--protect-both)"
    thresholds = [text for what, text in missing.items() if what.startswith("Thresholds at a FAR")]
    assert thresholds == ["30 pairs of strangers are too few"]
    assert not {"Expression", "Groups", "Ablations", "Noise baselines"} & set(missing)


def test_what_was_computed_is_not_called_missing(summary: dict) -> None:
    for method in summary["methods"].values():
        method["quality"]["fid"] = {"mean": 20.0, "std": None, "n": 6}
        method["facepp"] = {"confidence_clean": {}, "confidence_protected": {}}
    missing = dict(wording.not_computed(summary))
    assert "FID" not in missing
    assert "Face++ compare" not in missing


def test_a_small_run_tells_all_that_it_left_out() -> None:
    summary, _, _ = make_summary(n=3, methods=("map",), attributes={}, judge=None)
    summary["weights_date"] = None
    for entries in (summary["methods"]["map"][key] for key in ("verification", "mean_unseen")):
        entries[:] = [entry for entry in entries if entry["transformation"] in ("none", "grey")]
    missing = dict(wording.not_computed(summary))
    assert missing["Expression"] == "no judge was given (--expression-judge)"
    assert missing["Groups"] == "no attributes were given (--attributes)"
    assert {"Ablations", "Noise baselines", "Date of the weights"} <= set(missing)
    robustness = next(
        what for what in missing if what.startswith("Robustness against half size + JPEG")
    )
    assert "JPEG 50" in robustness
    assert "grey" not in robustness
    assert (
        missing["Robustness against diffusion purification"] == "not asked for (--all-transforms)"
    )
