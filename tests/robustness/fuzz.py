"""Throw hostile pictures at every entrance and print what happened: `make fuzz SECONDS=600`.

Each leg runs in a process of its own, so that a crash or a hang of a decoder is seen and counted;
the case that did it is kept in the folder of `--keep`.
"""

import argparse
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from fuzz_cases import Result, Row, Tally
from fuzz_package import ROOT, command_leg, gate_leg, pipeline_leg, processes_leg
from fuzz_page import page_leg

# MB that a process may be larger at the end than when it was warm. Pools of the decoders, torch and
# onnxruntime take the size of the largest pictures: a pipeline leg of 653 cases grew by 143 MB, one
# of 1,260 by 123.
GROWTH = 200
SHARES = {"gate": 0.25, "pipeline": 0.2, "command": 0.15, "processes": 0.1, "page": 0.3}
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
