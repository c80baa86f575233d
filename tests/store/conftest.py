from collections.abc import Iterator
from pathlib import Path

import pytest
from store.store_bench import Bench, make_bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = make_bench(tmp_path / "data")
    yield bench
    bench.db.close()
