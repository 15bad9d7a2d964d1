"""Cut a photograph into superpixels with the operator alone, on colour and place, and draw their borders.

python examples/superpixels.py IMAGE OUT.png
"""

import sys

import numpy as np
import torch
from PIL import Image

import tmt_ext

CELL = 16  # pixels along a side of a superpixel to begin with
PLACE = 1.0  # how much place counts beside colour


def main(path: str, out: str) -> None:
    image = np.array(Image.open(path).convert("RGB"))
    height, width = (side // CELL * CELL for side in image.shape[:2])
    image = image[:height, :width]
    colour = torch.from_numpy(image).permute(2, 0, 1) / 127.5 - 1
    y, x = torch.meshgrid(torch.arange(height) / CELL, torch.arange(width) / CELL, indexing="ij")
    waves = [wave(PLACE * axis) for axis in (y, x) for wave in (torch.sin, torch.cos)]  # the operator compares angles
    features = torch.cat([colour, torch.stack(waves)])[None].contiguous()
    regions = tmt_ext.superpixel(features, cell=CELL, iterations=10, kappa=100.0).labels[0]
    border = torch.zeros(height, width, dtype=torch.bool)
    border[1:] |= regions[1:] != regions[:-1]
    border[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    drawn = image.copy()
    drawn[border.numpy()] = (255, 230, 0)
    Image.fromarray(drawn).save(out)
    print(f"{len(regions.unique())} superpixels in {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
