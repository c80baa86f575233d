"""Moves bytes between application entities; the only home of pynetdicom."""
