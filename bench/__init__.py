"""Timings of the operators against peers in plain PyTorch: `python -m bench`."""
