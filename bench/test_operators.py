"""The operators and the decoder against their own past, with pytest-benchmark: pytest bench --benchmark-autosave, later
pytest bench --benchmark-compare. Peers are not here: see timing.py."""

import pytest

from . import contests

SIZE = (2, 128, 128, 128, 8)
ROWS = [
    *contests.superpixels(SIZE),
    *contests.cpu_attention(8192, True, "uncertain"),
    *contests.masks(8192),
    *contests.superpixels_in_half(SIZE),
    *contests.attention_in_half(8192),
    *contests.end_to_end(True),
    *contests.end_to_end(False),
]


@pytest.mark.parametrize("contest", ROWS, ids=lambda contest: contest.row)
def test_ours(benchmark, contest):
    ours = contest.calls["tmt"]
    benchmark.pedantic(ours, rounds=7, warmup_rounds=1)
