"""The same numbers with other strides, as (B, heads, rows, D) tensors come from a model and from elsewhere."""

import torch


def rows_first(x):
    """Heads after rows: what a projection gives a model."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def of_one_projection(x):
    """One third of a projection to query, key and value at once."""
    return torch.stack([torch.full_like(x, torch.nan), x, torch.full_like(x, torch.nan)], 2)[:, :, 1]


def every_other_row(x):
    """The odd rows of twice as many."""
    return torch.stack([torch.full_like(x, torch.nan), x], 3).flatten(2, 3)[:, :, 1::2]


def batch_inside(x):
    return x.movedim(0, 2).contiguous().movedim(2, 0)


def one_image(x):
    """Expanded over the batch; the numbers are those of the first image."""
    return x[:1].expand_as(x)


def one_head(x):
    return x[:, :1].expand_as(x)


def odd_offset(x):
    """Begins one element into its storage: aligned to the element only."""
    return torch.cat([x.new_full((1,), torch.nan), x.flatten()])[1:].view(x.shape)


def odd_rows(x):
    """Rows D + 1 elements apart."""
    return torch.nn.functional.pad(x, (0, 1), value=torch.nan)[..., :-1]


def columns_apart(x):
    """D is not the innermost dimension."""
    return x.mT.contiguous().mT


READ_AS_THEY_ARE = [rows_first, of_one_projection, every_other_row, batch_inside, one_image, one_head]
# Of these the tensor-core kernels need a copy; of the last one, all kernels.
COPIED_FOR_CHUNKS = [odd_offset, odd_rows]
LAYOUTS = [*READ_AS_THEY_ARE, *COPIED_FOR_CHUNKS, columns_apart]


def copies(call):
    """How many tensors `call` copies inside of torch."""
    with torch.autograd.profiler.profile(use_kineto=False) as profile:
        call()
    return sum(event.name in ("aten::copy_", "aten::_to_copy") for event in profile.function_events)
