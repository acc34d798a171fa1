"""Frames to an MP4 file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stablegrad.errors import UsageError


def write_video(path: Path, frames: Sequence[np.ndarray], frames_per_second: int = 30) -> None:
    """Write ``frames``, each [height, width, 3] uint8, as H.264; the file appears whole or not at all."""
    try:
        import imageio.v2 as imageio
    except ImportError as error:
        raise UsageError("writing a video needs more packages: pip install 'stablegrad[video]'") from error
    partial = path.with_name(f".{path.stem}.partial.mp4")
    try:
        # macro_block_size 2: sides are padded to even numbers only, as H.264 asks.
        imageio.mimwrite(partial, list(frames), fps=frames_per_second, macro_block_size=2)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
