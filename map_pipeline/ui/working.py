"""Buttons while something is being worked on: one to stop it, and none to begin again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from map_pipeline.ui import texts
from map_pipeline.ui.cache import keep

# Quick, and nothing for programs: never waits for a photo that is being protected.
AT_ONCE = {"api_visibility": "private", "concurrency_limit": None}


@dataclass(frozen=True)
class AtWork:
    """The buttons that begin some work, the one that stops it, and where its progress is shown."""

    starts: Sequence[gr.Button]
    stop: gr.Button
    status: gr.HTML

    def begin(self, event: Callable, uploads: Sequence[Component]) -> Any:
        """Have an event switch the buttons; what follows it is the work.

        Args:
            uploads: what is worked on, which mustn't be deleted while it waits for its turn.
        """
        buttons = [*self.starts, self.stop]
        return event(self._busy, uploads, buttons, preprocess=False, queue=False, **AT_ONCE)

    def end(self, jobs: Sequence[Any]) -> None:
        """Switch the buttons back, and clear the progress, when the work has ended or is stopped.

        Args:
            jobs: the events that do the work.
        """
        outputs = [*self.starts, self.stop, self.status]
        for job in jobs:
            for ended in (job.success, job.failure):
                ended(self._idle, outputs=outputs, **AT_ONCE)
        self.stop.click(self._stopping, outputs=[self.stop, self.status], cancels=jobs, **AT_ONCE)

    def _busy(self, *uploads: Any) -> list[gr.Button]:
        keep(list(paths_in(uploads)))
        return [*(gr.Button(interactive=False) for _ in self.starts), gr.Button(visible=True)]

    def _idle(self) -> list[gr.Button | str]:
        return [*(gr.Button(interactive=True) for _ in self.starts), gr.Button(visible=False), ""]

    def _stopping(self) -> tuple[gr.Button, str]:
        # Until the work has ended Gradio would drop another press of the first button.
        return gr.Button(visible=False), texts.STOPPING


def paths_in(value: Any) -> Iterator[str]:
    """Paths of all files in what Gradio sends of an upload, a gallery or a clip."""
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        yield value["path"]
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from paths_in(one)
