"""How weights lie in files: fp32, fp16 or int8 with a scale a channel; tensors in and out, no file read or written."""

from collections.abc import Mapping

import torch

from triage.nn.card import Storage

SCALE_SUFFIX = ".int8_scale"
"""Ending of the name of the tensor that holds the scales of an int8 tensor: one float32 an output channel."""

INT8_MAX = 127
"""Quantised values are symmetric, -127..127, so that negation is exact."""

State = Mapping[str, torch.Tensor]


def stored(state: State, storage: Storage) -> dict[str, torch.Tensor]:
    """A state as it lies in a file. Vectors (batch norm, biases) are few and delicate: they stay fp32 always.

    Args:
        state: Floating point, and counts.
        storage: Of what has two axes or more.

    Returns:
        Tensors by name; beside those of int8 their scales. What came from int8 gives the same int8 again.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        if not tensor.is_floating_point():
            tensors[name] = tensor
        elif storage == "fp32" or tensor.ndim < 2:
            tensors[name] = tensor.float()
        elif storage == "fp16":
            tensors[name] = tensor.half()
        else:
            tensors[name], tensors[name + SCALE_SUFFIX] = _quantised(tensor.float())
    return tensors


def expanded(tensors: State) -> dict[str, torch.Tensor]:
    """The way back of `stored`.

    Args:
        tensors: As they lie in a file.

    Returns:
        The state, floating point in fp32.

    Raises:
        ValueError: An int8 tensor has no scales.
    """
    state = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        if tensor.dtype == torch.int8:
            scale = tensors.get(name + SCALE_SUFFIX)
            if scale is None or scale.shape != tensor.shape[:1] or not (torch.isfinite(scale) & (scale > 0)).all():
                raise ValueError(f"int8 tensor {name} has no positive scale a channel")
            tensor = tensor.float() * _per_channel(scale.float(), tensor.ndim)
        state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def _quantised(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, ...) float -> int8 of the same shape and (out,) float32 scales; a channel of zeros gets scale 1."""
    largest = tensor.abs().flatten(1).amax(dim=1)
    scale = torch.where(largest > 0, largest / INT8_MAX, 1.0)
    values = torch.round(tensor / _per_channel(scale, tensor.ndim)).clamp(-INT8_MAX, INT8_MAX)
    return values.to(torch.int8), scale


def _per_channel(scale: torch.Tensor, ndim: int) -> torch.Tensor:
    return scale.view(-1, *[1] * (ndim - 1))
