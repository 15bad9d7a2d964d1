"""Choosing what a person labels next: regions of images, scores of them, and what fits a budget."""
