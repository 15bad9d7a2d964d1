"""Times both operators against their peers and prints one table: python -m bench [--rounds 7] [--json FILE]."""

import argparse
import platform
from pathlib import Path

import torch

import tmt_ext

from . import contests
from .timing import interleaved, passes

SUPERPIXEL_SIZES = ((2, 128, 128, 128, 8), (1, 256, 128, 256, 8), (4, 256, 64, 128, 4))  # B, C, H, W, cell
ATTENTION_KEYS = (2048, 8192, 32768)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds; the median counts")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = [row for size in SUPERPIXEL_SIZES for row in superpixel_rows(size, arguments.rounds)]
    for keys in ATTENTION_KEYS:
        for shaped in (False, True):
            rows += attention_rows(keys, shaped, arguments.rounds)
    record = {"environment": environment(), "rows": rows}
    print("\n".join(table(rows)) + f"\n\n{record['environment']}")
    if arguments.json:
        contests.save(arguments.json, record)


def environment() -> dict[str, str]:
    """What the figures were measured with."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    models = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(models)) or platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()),
        **contests.origin(),
        **{name: tmt_ext.build_info()[name] for name in ("simd_active", "compiler")},
    }


def superpixel_rows(size: tuple[int, ...], rounds: int) -> list[dict[str, object]]:
    """Forward, and forward + backward, of the superpixel iteration at one size (B, C, H, W, cell)."""
    *shape, cell = size
    features = torch.randn(shape)
    return both_passes(f"superpixel {tuple(shape)} cell {cell}", contests.superpixels(cell), (features,), rounds)


def attention_rows(keys: int, shaped: bool, rounds: int) -> list[dict[str, object]]:
    """Forward, and forward + backward, of the masked attention with 100 queries, 8 heads of 32, p_T = 0.3."""
    query, key, value = (torch.randn(2, 8, count, 32) for count in (100, keys, keys))
    mask, transferability = blobs(keys) if shaped else (torch.randn(2, 100, keys), torch.rand(2, keys))
    title = f"attention S {keys} {'blobs' if shaped else 'unstructured'}, {contests.RULE}"
    return both_passes(title, contests.attention(mask, transferability), (query, key, value), rounds)


def blobs(keys: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask logits (2, 100, keys) of one disc a query on a 1:2 map, and a smooth transferability (2, keys)."""
    height = int((keys / 2) ** 0.5)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(keys // height), indexing="ij")
    centre = torch.rand(2, 100, 2, 1, 1) * torch.tensor([height, keys // height]).view(2, 1, 1)
    radius = height * (0.05 + 0.2 * torch.rand(2, 100, 1, 1))
    distance = ((y - centre[:, :, 0]) ** 2 + (x - centre[:, :, 1]) ** 2).sqrt()
    transferability = torch.nn.functional.interpolate(torch.rand(2, 1, 4, 8), (height, keys // height), mode="bicubic")
    return (radius - distance).flatten(2), transferability.clamp(0, 1).flatten(1)


def both_passes(title, contestants, inputs, rounds) -> list[dict[str, object]]:
    """One row a pass: median milliseconds of each contestant."""
    return [
        {"title": title, "pass": name, "ms": interleaved(calls, rounds)}
        for name, calls in passes(contestants, inputs).items()
    ]


def table(rows: list[dict[str, object]]) -> list[str]:
    """The figures as Markdown: milliseconds, and how many times faster than each peer."""
    lines = ["| what | pass | ms | against peers |", "| --- | --- | --- | --- |"]
    for row in rows:
        own = row["ms"]["tmt"]
        ratios = ", ".join(f"{ms / own:.1f}x {name} ({ms:.0f} ms)" for name, ms in row["ms"].items() if name != "tmt")
        lines.append(f"| {row['title']} | {row['pass']} | {own:.1f} | {ratios} |")
    return lines


if __name__ == "__main__":
    main()
