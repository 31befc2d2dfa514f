"""Buttons while something is being worked on: one to stop it, and none to begin again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from map_pipeline.ui import texts

# Quick, and nothing for programs: never waits for a photo that is being protected.
AT_ONCE = {"api_visibility": "private", "concurrency_limit": None}


@dataclass(frozen=True)
class AtWork:
    """The buttons that begin some work, the one that stops it, and where its progress is shown."""

    starts: Sequence[gr.Button]
    stop: gr.Button
    status: gr.HTML

    def begin(self, event: Callable) -> Any:
        """Have an event switch the buttons; what follows it is the work."""
        return event(self._busy, outputs=[*self.starts, self.stop], queue=False, **AT_ONCE)

    def end(self, jobs: Sequence[Any], clear: bool = True) -> None:
        """Switch the buttons back when the work has ended, or is stopped.

        Args:
            jobs: the events that do the work.
            clear: whether its progress is cleared then.
        """
        outputs = [*self.starts, self.stop, *([self.status] if clear else [])]
        for job in jobs:
            for ended in (job.success, job.failure):
                ended(lambda: self._idle(clear), outputs=outputs, **AT_ONCE)
        self.stop.click(self._stopping, outputs=[self.stop, self.status], cancels=jobs, **AT_ONCE)

    def _busy(self) -> list[gr.Button]:
        return [*(gr.Button(interactive=False) for _ in self.starts), gr.Button(visible=True)]

    def _idle(self, clear: bool) -> list[gr.Button | str]:
        ready = [gr.Button(interactive=True) for _ in self.starts]
        return [*ready, gr.Button(visible=False), *([""] if clear else [])]

    def _stopping(self) -> tuple[gr.Button, str]:
        # Until the work has ended Gradio would drop another press of the first button.
        return gr.Button(visible=False), texts.STOPPING
