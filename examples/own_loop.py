"""Fine-tune a saved model in a training loop of one's own: plain PyTorch around this package's batches and loss.

    python examples/own_loop.py MODEL DATASET OUT

MODEL is a folder that `python -m tmt.train` or `save_pretrained` wrote, DATASET one in the layout `folders` of the same
classes.
"""

import sys

import torch

import tmt

STEPS = 20


def main(folder: str, dataset: str, out: str) -> None:
    torch.manual_seed(0)
    images = tmt.open_dataset("folders", dataset, "train")
    model = tmt.TMTForSemanticSegmentation.from_pretrained(folder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    augment = tmt.Augment(crop=(64, 128))
    for batch in tmt.train_batches(images, augment, batch_size=2, seed=0, steps=STEPS, scaling=model.scaling):
        masks, classes = tmt.masks_from_labels(batch["labels"], model.config.num_labels)
        known = batch["labels"] != tmt.IGNORE
        loss = model(batch["pixel_values"], masks, classes, labelled=known, sample_seeds=batch["sample_seeds"]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"loss {loss.item():.3f}")
    model.save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
