"""What a visitor did in this tab: the results to go back to. Pictures are named, never held."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from map_pipeline.report import FaceReport, count_matches
from map_pipeline.ui import texts
from map_pipeline.ui.service import Files

MOST_RESULTS = 8


@dataclass(frozen=True, eq=False)
class Result:
    """A protected photo as the page shows it.

    Attributes:
        files: the pictures, which are deleted after a few minutes.
        reports: one per protected face.
        emotion, mode, seed: of the run, see `Choices`.
        robustness: chart of what is left after sharing, HTML; empty if that isn't measured.
    """

    files: Files
    reports: Sequence[FaceReport]
    emotion: str
    mode: str
    seed: int
    robustness: str = ""

    @property
    def caption(self) -> str:
        """What distinguishes it from the others."""
        found, total = count_matches(self.reports)
        copied = any(one.expression_of for one in self.reports)
        name = "Copied" if copied else texts.emotion_label(self.emotion)
        return f"{name}, {self.mode}: found by {found} of {total}"


@dataclass(frozen=True, eq=False)
class Visit:
    """The results of a tab, newest last, and the one that is shown, which may be an example."""

    results: tuple[Result, ...] = ()
    shown: Result | None = None

    def add(self, result: Result) -> "Visit":
        """This visit with one more result, which is shown."""
        return Visit((*self.results, result)[-MOST_RESULTS:], result)

    def tested(self, robustness: str) -> "Visit":
        """This visit with the last result's chart of what is left after sharing."""
        *before, last = self.results
        result = replace(last, robustness=robustness)
        return Visit((*before, result), result)

    def show(self, result: Result) -> "Visit":
        """This visit with another result shown."""
        return replace(self, shown=result)
