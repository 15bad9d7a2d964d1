"""Times both operators against their peers and prints one table: python -m bench [--rounds 7] [--json FILE]."""

import argparse
import datetime
import json
import platform
from pathlib import Path

import torch

import tmt_ext

from . import peers
from .timing import forward_backward, interleaved

SUPERPIXEL_SIZES = ((2, 128, 128, 128, 8), (1, 256, 128, 256, 8), (4, 256, 64, 128, 4))  # B, C, H, W, cell
ATTENTION_KEYS = (2048, 8192, 32768)
KAPPA = 1 / 0.07


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
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def environment() -> dict[str, str]:
    """What the figures were measured with."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    models = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(models)) or platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        **{name: tmt_ext.build_info()[name] for name in ("revision", "simd_active", "compiler")},
    }


def superpixel_rows(size: tuple[int, ...], rounds: int) -> list[dict[str, object]]:
    """Forward, and forward + backward, of the superpixel iteration at one size (B, C, H, W, cell)."""
    *shape, cell = size
    features = torch.randn(shape)

    def ours(x):
        return tmt_ext.superpixel(x, cell, iterations=6, kappa=KAPPA).region_features

    def unfold(x):
        return peers.superpixel_unfold(x, cell, 6, KAPPA)[0]

    contestants = {"tmt": ours, "unfold": unfold}
    return both_passes(f"superpixel {tuple(shape)} cell {cell}", contestants, (features,), rounds)


def attention_rows(keys: int, shaped: bool, rounds: int) -> list[dict[str, object]]:
    """Forward, and forward + backward, of the masked attention with 100 queries, 8 heads of 32, p_T = 0.3."""
    query, key, value = (torch.randn(2, 8, count, 32) for count in (100, keys, keys))
    mask, transferability = blobs(keys) if shaped else (torch.randn(2, 100, keys), torch.rand(2, keys))
    threshold = torch.quantile(transferability, 0.7, dim=1)

    def ours(q, k, v):
        return tmt_ext.masked_attention(q, k, v, mask, transferability, transfer_threshold=threshold, rule="foreground")

    def peer(function):
        return lambda q, k, v: function(q, k, v, mask, transferability, threshold, "foreground")

    contestants = {
        "tmt": ours,
        "sdpa, boolean mask": peer(peers.attention_sdpa),
        "mask2former": peer(peers.attention_mask2former),
    }
    title = f"attention S {keys} {'blobs' if shaped else 'unstructured'}, foreground"
    return both_passes(title, contestants, (query, key, value), rounds)


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
    forward = {name: (lambda f=function: f(*inputs)) for name, function in contestants.items()}
    training = {name: forward_backward(function, *inputs) for name, function in contestants.items()}
    with torch.no_grad():
        first = interleaved(forward, rounds)
    return [
        {"title": title, "pass": "forward", "ms": first},
        {"title": title, "pass": "forward + backward", "ms": interleaved(training, rounds)},
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
