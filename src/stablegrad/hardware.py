"""What the machine can do fast."""

from __future__ import annotations

import torch


def has_fast_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 matrices faster than float32 ones.

    A CPU does with AMX or with AVX512-BF16; without, torch emulates it many times slower than float32.
    """
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return False
