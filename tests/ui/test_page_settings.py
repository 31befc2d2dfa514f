"""The settings of the page, its form and its rate limit, without a server."""

import gradio as gr
import pytest

from map_pipeline.errors import UnknownOptionError
from map_pipeline.expression.action_units import ACTION_UNITS
from map_pipeline.ui import page, texts
from map_pipeline.ui.rate_limit import RateLimit, RateLimitError
from map_pipeline.ui.settings import Choices, PageSettings

# Settings


def test_settings_come_from_the_environment() -> None:
    settings = PageSettings.from_environment({"MAP_RATE_LIMIT": "20/day", "MAP_CONCURRENCY": "3"})
    assert (settings.rate_limit, settings.rate_seconds, settings.concurrency) == (20, 86400, 3)
    assert PageSettings.from_environment({}) == PageSettings()
    assert PageSettings.from_environment({"MAP_BATCH_PHOTOS": "25"}).batch_photos == 25
    zero_gpu = PageSettings.from_environment({"SPACES_ZERO_GPU": "1"})
    assert (zero_gpu.concurrency, zero_gpu.batch_seconds) == (8, 80)


@pytest.mark.parametrize("text", ["20", "many/hour", "-1/hour", "20/week", ""])
def test_unreadable_rate_limit_is_told(text: str) -> None:
    with pytest.raises(UnknownOptionError, match="MAP_RATE_LIMIT"):
        PageSettings.from_environment({"MAP_RATE_LIMIT": text})


@pytest.mark.parametrize("name", ["MAP_CONCURRENCY", "MAP_BATCH_PHOTOS"])
@pytest.mark.parametrize("text", ["0", "two", "-1"])
def test_unreadable_number_is_told(name: str, text: str) -> None:
    with pytest.raises(UnknownOptionError, match=name):
        PageSettings.from_environment({name: text})


def test_form_has_a_component_for_every_choice() -> None:
    with gr.Blocks():
        form = page.form([])
    defaults = [component.value for component in form.choices]
    assert defaults[4] == []  # no face is ticked before a photo is there
    defaults[4] = ()
    assert Choices(*defaults) == Choices()
    assert list(texts.MOVEMENTS) == list(ACTION_UNITS)
    amounts = [one.value for one in form.movements]
    assert [*form.choices, form.whose, form.own, *form.movements] == form.given

    def read(whose: int = 0, own: dict[str, str] | None = None) -> Choices:
        return form.read([*defaults, whose, own or {}, *amounts])

    assert read() == Choices(action_units={}, emotions={})
    amounts[0], amounts[-1] = 0.5, -1
    assert read().action_units == {"smile": 0.5, list(texts.MOVEMENTS)[-1]: -1}
    # The expression that is shown belongs to the face it's asked for.
    both = read(2, {"0": "sad", "1": "fear", "2": "angry"})
    assert [both.emotion_of(number) for number in (1, 2, 3)] == ["fear", "happy", "sad"]


# Rate limit


def test_rate_limit_counts_each_visitor_and_forgets() -> None:
    now = [0.0]
    limit = RateLimit(calls=2, seconds=3600, clock=lambda: now[0])
    for visitor in ("a", "a", "b"):
        limit.count(visitor)
    now[0] = 1800
    with pytest.raises(RateLimitError, match=r"at most 2 photos per visitor in 60 minutes.*30 min"):
        limit.count("a")
    limit.count("b")
    now[0] = 3601
    limit.count("a")


def test_photos_of_a_batch_count_one_by_one_or_not_at_all() -> None:
    now = [0.0]
    limit = RateLimit(3, 3600, lambda: now[0])
    limit.count("a", 2)
    with pytest.raises(RateLimitError, match="1 of your 2 photos can be protected now"):
        limit.count("a", 2)
    limit.count("a", 1)
    with pytest.raises(RateLimitError, match="come back in 60 minutes"):
        limit.count("a", 2)
    now[0] = 3601
    limit.count("a", 3)


def test_no_rate_limit_by_default() -> None:
    settings = PageSettings()
    limit = RateLimit(settings.rate_limit, settings.rate_seconds)
    for _ in range(1000):
        limit.count("a")
