import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import portrait, read_clip, sound_packets, swaying, write_clip

from map_pipeline.errors import InvalidVideoError
from map_pipeline.video.reading import Frame, open_clip
from map_pipeline.video.writing import rewrite


def same(frame: Frame) -> np.ndarray:
    return frame.pixels()


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return swaying(portrait()[64:192, 64:192], 12)


def copy(source: Path, output: Path) -> Path:
    rewrite(open_clip(source), output, same)
    return output


def set_matrix(path: Path, turn: tuple[int, int, int, int]) -> None:
    """Say in the header of a track how players shall turn it: a, b, c, d of its matrix."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 0x10000 for value in turn)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(content)


def test_unchanged_pictures_come_out_as_they_went_in(
    frames: list[np.ndarray], tmp_path: Path
) -> None:
    source = write_clip(tmp_path / "in.mp4", frames)
    before, times = read_clip(source)
    after, kept = read_clip(copy(source, tmp_path / "out.mp4"))
    assert after.shape == before.shape
    np.testing.assert_allclose(kept, times, atol=1e-4)
    assert np.abs(after.astype(float) - before).mean() < 4
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "out.mp4"}


def test_output_is_what_every_player_shows(frames: list[np.ndarray], tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", frames, sound=True)
    with av.open(str(copy(source, tmp_path / "out.mp4"))) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert "comment" not in {key.lower() for key in container.metadata}


def test_uneven_times_are_kept(frames: list[np.ndarray], tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.1, 0.11, 0.4, 0.44, 0.9, 1.0, 1.01, 1.5, 1.52, 2.0]
    source = write_clip(tmp_path / "in.mp4", frames, times=times)
    assert [frame.seconds for frame in open_clip(source).frames()] == pytest.approx(times, abs=1e-3)
    _, kept = read_clip(copy(source, tmp_path / "out.mp4"))
    np.testing.assert_allclose(kept, times, atol=1e-3)


def test_sound_is_copied_bit_for_bit(frames: list[np.ndarray], tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", frames, sound=True)
    before = sound_packets(source)
    after = sound_packets(copy(source, tmp_path / "out.mp4"))
    assert len(before) > 5
    assert [content for _, content in after] == [content for _, content in before]
    np.testing.assert_allclose([t for t, _ in after], [t for t, _ in before], atol=2e-3)


@pytest.mark.parametrize(
    ("matrix", "turns"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]
)
def test_a_turned_clip_comes_out_upright(
    frames: list[np.ndarray], tmp_path: Path, matrix: tuple[int, int, int, int], turns: int
) -> None:
    source = write_clip(tmp_path / "in.mp4", [frame[:96] for frame in frames])
    stored, _ = read_clip(source)
    set_matrix(source, matrix)
    clip = open_clip(source)
    upright = np.rot90(stored[0], turns)
    assert clip.size == upright.shape[1::-1]
    assert np.abs(next(iter(clip.frames())).pixels().astype(float) - upright).mean() < 1.5
    output = copy(source, tmp_path / "out.mp4")
    after, _ = read_clip(output)
    assert np.abs(after[0].astype(float) - upright).mean() < 4
    with av.open(str(output)) as container:
        assert next(container.decode(video=0)).rotation == 0


@pytest.mark.parametrize("matrix", ["itu601", "itu709"])
def test_colours_stay(tmp_path: Path, matrix: str) -> None:
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[:32], colours[32:] = (200, 40, 60), (30, 90, 180)

    def mark(stream: av.VideoStream) -> None:
        stream.codec_context.colorspace = {"itu601": 5, "itu709": 1}[matrix]

    source = write_clip(tmp_path / "in.mp4", [colours] * 3, change=mark)
    clip = open_clip(source)
    before = next(iter(clip.frames())).pixels()
    after = next(iter(open_clip(copy(source, tmp_path / "out.mp4")).frames()))
    assert int(after.picture.colorspace) == int(clip.colours[0])
    assert np.abs(after.pixels()[8:24].astype(int) - before[8:24]).max() <= 4
    assert np.abs(after.pixels()[40:56].astype(int) - before[40:56]).max() <= 4


def test_an_odd_side_gets_one_line_more(frames: list[np.ndarray], tmp_path: Path) -> None:
    odd = [frame[:95, :101] for frame in frames]
    source = write_clip(tmp_path / "in.mkv", odd)
    assert open_clip(source).size == (101, 95)
    after, _ = read_clip(copy(source, tmp_path / "out.mp4"))
    assert after.shape[1:3] == (96, 102)
    assert np.abs(after[0, :95, :101].astype(float) - odd[0]).mean() < 4


def damaged_head(path: Path) -> None:
    path.write_bytes(b"\0" * 400 + path.read_bytes()[400:])


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:600])


def no_video(path: Path) -> None:
    path.write_text("#EXTM3U\n#EXTINF:1,\nother.mp4\n")


def sound_only(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        tone = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(tone.encode(frame))
        container.mux(tone.encode(None))


def no_frames(path: Path) -> None:
    with av.open(str(path), "w", format="matroska") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        container.start_encoding()


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [damaged_head, cut_off, no_video, sound_only, no_frames, empty])
def test_what_is_no_clip_is_refused(
    frames: list[np.ndarray], tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = write_clip(tmp_path / "in.mp4", frames)
    spoil(path)
    with pytest.raises(InvalidVideoError, match="`clip` must be a video that can be read"):
        open_clip(path)


def test_too_large_and_too_small_sides_are_refused(tmp_path: Path) -> None:
    wide = write_clip(tmp_path / "wide.mp4", [np.zeros((64, 4100, 3), np.uint8)])
    with pytest.raises(InvalidVideoError, match="4100 x 64"):
        open_clip(wide)
    small = write_clip(tmp_path / "small.mp4", [np.zeros((30, 64, 3), np.uint8)])
    with pytest.raises(InvalidVideoError, match="64 x 30"):
        open_clip(small)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, InvalidVideoError])
def test_whatever_stops_the_writing_leaves_no_file(
    frames: list[np.ndarray], tmp_path: Path, stop: type[BaseException]
) -> None:
    source = write_clip(tmp_path / "in.mp4", frames)

    def change(frame: Frame) -> np.ndarray:
        if frame.index == 5:
            raise stop
        return frame.pixels()

    with pytest.raises(stop):
        rewrite(open_clip(source), tmp_path / "out.mp4", change)
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4"}


def test_other_containers_are_refused_as_output(frames: list[np.ndarray], tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", frames)
    with pytest.raises(InvalidVideoError, match=r"\.mp4, .*got 'out.avi'"):
        copy(source, tmp_path / "out.avi")


@pytest.mark.parametrize(
    ("name", "codec", "output"),
    [("in.avi", "pcm_s16le", "out.mp4"), ("in.avi", "pcm_alaw", "out.mkv")],
)
def test_sound_that_does_not_fit_becomes_aac(
    frames: list[np.ndarray], tmp_path: Path, name: str, codec: str, output: str
) -> None:
    source = write_clip(tmp_path / name, frames, sound=codec)
    with av.open(str(copy(source, tmp_path / output))) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        tone = np.concatenate([one.to_ndarray() for one in container.decode(audio=0)], 1)
    heard = np.abs(np.fft.rfft(tone[0]))
    assert tone.shape[1] == pytest.approx(16000 * len(frames) / 25, abs=1024)
    assert heard.argmax() / tone.shape[1] == pytest.approx(0.3 / (2 * np.pi), abs=0.01)


def test_sound_is_copied_where_the_container_holds_it(
    frames: list[np.ndarray], tmp_path: Path
) -> None:
    source = write_clip(tmp_path / "in.avi", frames, sound="pcm_s16le")
    packets = sound_packets(copy(source, tmp_path / "out.mkv"))
    assert [one for _, one in packets] == [one for _, one in sound_packets(source)]


def test_a_sound_track_that_cannot_be_read_is_left_out_and_named(
    frames: list[np.ndarray], tmp_path: Path
) -> None:
    source = write_clip(tmp_path / "in.mkv", frames, sound=True)
    assert open_clip(source).notes == ()
    source.write_bytes(source.read_bytes().replace(b"A_AAC", b"A_ZZZ"))
    assert "1 of 1" in open_clip(source).notes[0]
    with av.open(str(copy(source, tmp_path / "out.mp4"))) as container:
        assert not container.streams.audio
        assert len(list(container.decode(video=0))) == len(frames)


def test_damage_anywhere_is_no_other_error(frames: list[np.ndarray], tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "in.mp4", frames[:6], sound=True).read_bytes()
    rng, source, output = np.random.default_rng(0), tmp_path / "bad.mp4", tmp_path / "out.mp4"
    for _ in range(40):
        content = bytearray(whole)
        start = rng.choice([0, whole.rfind(b"moov")])
        for place in rng.integers(start, len(content), 12):
            content[place] = rng.integers(256)
        source.write_bytes(content)
        output.unlink(missing_ok=True)
        try:
            copy(source, output)
        except InvalidVideoError:
            assert not output.exists()
        else:
            assert output.exists()


def test_frame_rate_and_count_are_known_before(frames: list[np.ndarray], tmp_path: Path) -> None:
    clip = open_clip(write_clip(tmp_path / "in.mp4", frames))
    assert (clip.frame_count, clip.rate) == (12, Fraction(25))
