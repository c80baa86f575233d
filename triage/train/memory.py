"""Tells a lack of memory from other faults: PyTorch says it in the texts of its RuntimeErrors."""

TEXTS = ("out of memory", "can't allocate memory", "not enough memory")
"""Of CUDA's allocator and of the CPU's."""


def is_shortage(error: Exception) -> bool:
    """Whether an exception says that memory did not suffice."""
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in TEXTS)
