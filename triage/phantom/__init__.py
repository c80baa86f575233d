"""Synthetic head CT with known truth, from one integer seed; no patient anywhere."""
