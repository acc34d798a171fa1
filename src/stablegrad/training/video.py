"""Frames to an MP4 file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from stablegrad.errors import UsageError
from stablegrad.packages import load_package


@contextmanager
def video_writer(path: Path, frames_per_second: int = 30) -> Iterator[Callable[[np.ndarray], None]]:
    """Open an H.264 video; the file appears whole when the body ends, or not at all.

    Yields:
        A function that appends a frame, [height, width, 3] uint8.

    Raises:
        UsageError: the packages for it are not installed, the file is no .mp4, or its folder does not exist.
    """
    advice = "writing a video needs more packages: pip install 'stablegrad[video]'"
    imageio = load_package("imageio.v2", "get_writer", advice)
    load_package("imageio_ffmpeg", "get_ffmpeg_exe", advice)  # imageio finds it by itself, and says so late
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"cannot write '{path}': a video is an MP4 file; name it '{path.with_suffix('.mp4').name}'")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"cannot write '{path}': there is no folder '{path.parent}'")
    partial = path.with_name(f".{path.stem}.partial.mp4")
    try:
        # macro_block_size 2: sides are padded to even numbers only, as H.264 asks.
        writer = imageio.get_writer(partial, fps=frames_per_second, macro_block_size=2)
        try:
            yield writer.append_data
        finally:
            writer.close()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
