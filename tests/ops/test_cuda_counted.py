"""The counts of memory traffic of emulated kernels: patterns whose counts are known by hand."""

import ctypes
import re

import counted
import emulated
import pytest
import torch

COUNT_TEST = emulated.EMULATION / "count_test.cu"
# {kernel: {traffic: (warp accesses, wavefronts, the same without conflicts, bytes, sectors)}}
SHARED = {
    "load<float, 1>": (1, 1, 1, 128),
    "load<float, 2>": (1, 2, 1, 128),
    "load<float, 32>": (1, 32, 1, 128),
    "load<float, 0>": (1, 1, 1, 128),  # every lane the same word
    "load<c10::BFloat16, 1>": (1, 1, 1, 64),
    "load<Vector2<float>, 1>": (1, 2, 2, 256),
    "load<Vector2<float>, 2>": (1, 4, 2, 256),
    "load<Vector4<float>, 1>": (1, 4, 4, 512),
    "load<Vector4<float>, 2>": (1, 8, 4, 512),
    "store<float, 1>": (1, 1, 1, 128),
    "store<float, 33>": (1, 1, 1, 128),
    "store<Vector4<float>, 1>": (1, 4, 4, 512),
    "store<Vector2<unsigned int>, 1>": (1, 2, 2, 256),
    "matrices<16>": (1, 4, 4, 512),
    "matrices<128>": (1, 32, 4, 512),
    "matrices<0>": (1, 4, 4, 512),
    "copies<16>": (1, 4, 4, 512),
    "copies<128>": (1, 32, 4, 512),
    "uneven_rounds": (4, 4, 4, 320),
    "by_turns": (2, 2, 2, 128),
    "aggregates": (1, 4, 4, 512),
    "components": (2, 8, 8, 1024),
    "words_in_turn": (4, 16, 4, 512),
}
GLOBAL = {  # {kernel: {traffic: (accesses, bytes, sectors)}}
    "load<float, 1>": {"global store": (1, 128, 4)},
    "load<c10::BFloat16, 1>": {"global store": (1, 64, 2)},
    "load<Vector4<float>, 1>": {"global store": (1, 512, 16)},
    "copies<16>": {"global load": (1, 256, 8)},
    "global_words<1>": {"global load": (1, 128, 4), "global store": (1, 128, 4)},
    "global_words<8>": {"global load": (1, 128, 32), "global store": (1, 128, 32)},
    "aggregates": {"global store": (1, 128, 4)},
    "matrices<16>": {},
}
KIND = {
    **dict.fromkeys(["load", "aggregates", "components", "words_in_turn"], "shared load"),
    **{"matrices": "shared matrix", "copies": "shared copy"},
}


@pytest.fixture(scope="module")
def counts():
    path = emulated.library([COUNT_TEST], sanitize="", unit_flags=counted.FLAGS)
    memory = torch.zeros(4096)
    run = ctypes.CDLL(str(path)).run_patterns
    failures = []
    found = counted.count_in(path, lambda: failures.append(run(ctypes.c_void_p(memory.data_ptr()))))
    assert failures == [0]
    return {re.search(r"::(\w+(?:<.+>)?)\(float", c.kernel)[1]: c for c in found}


@pytest.mark.parametrize("kernel", SHARED)
def test_wavefronts(counts, kernel):
    kind = KIND.get(kernel.partition("<")[0], "shared store")
    sites = [site for site in counts[kernel].sites if site.traffic.startswith("shared")]
    assert {site.traffic for site in sites} == {kind}
    found = tuple(counts[kernel].total(field, kind) for field in ("accesses", "wavefronts", "ideal", "bytes"))
    assert found == SHARED[kernel]


@pytest.mark.parametrize("kernel", GLOBAL)
def test_bytes_and_sectors(counts, kernel):
    count = counts[kernel]
    found = {
        kind: tuple(count.total(field, kind) for field in ("accesses", "bytes", "sectors"))
        for kind in ("global load", "global store")
    }
    assert {kind: total for kind, total in found.items() if total[0]} == GLOBAL[kernel]


def test_a_sector_that_is_read_twice_in_a_launch_is_moved_once(counts):
    assert (counts["global_words<8>"].sectors_read, counts["global_words<8>"].sectors_written) == (32, 32)
    assert counts["global_words<8>"].launches == 1


def test_a_site_names_its_line_and_that_of_its_caller(counts):
    (site,) = counts["matrices<128>"].sites
    source = COUNT_TEST.read_text().splitlines()
    (line,) = [i for i, text in enumerate(source, 1) if "load_matrices(to" in text]
    assert site.lines == (f"count_test.cu:{line}",)
