"""Backoff of deliveries; what they do with real peers stands in test_service.py."""

import pytest

from triage.config import DeliverySection
from triage.outbox import backoff_s


@pytest.mark.parametrize(("attempts", "expected"), [(1, 5.0), (2, 10.0), (6, 160.0), (7, 300.0), (500, 300.0)])
def test_pauses_double_from_seconds_to_minutes(attempts: int, expected: float) -> None:
    assert backoff_s(DeliverySection(), attempts) == expected
