"""How networks are run over many images: in batches of bounded size, in a precision, alike every time."""

import contextlib
from collections.abc import Iterator

import torch

BATCH_CPU, BATCH_CUDA = 16, 64
"""Slices a forward pass; bounds memory whatever the length of a series."""

AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Number format of matrix products by precision; the rest stays fp32."""


def batches(slabs: torch.Tensor, device: torch.device) -> Iterator[torch.Tensor]:
    """Split images into batches on a device.

    Args:
        slabs: (m, ...).
        device: Where a network is.

    Yields:
        (at most BATCH_CPU or BATCH_CUDA, ...), in order.
    """
    for part in torch.split(slabs, BATCH_CUDA if device.type == "cuda" else BATCH_CPU):
        yield part.to(device)


@contextlib.contextmanager
def running(device: torch.device, precision: str) -> Iterator[None]:
    """Run networks without gradients, deterministically; cuDNN chooses the same algorithms, and fp32 is fp32.

    Args:
        device: Where they are.
        precision: "auto" (bf16 or fp16 on CUDA, fp32 on a CPU), "fp32", "bf16" or "fp16".
    """
    if precision == "auto":
        precision = "fp32"
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    autocast = torch.autocast(device.type, dtype=AUTOCAST[precision], enabled=precision != "fp32")
    same = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), same, autocast:
        yield
