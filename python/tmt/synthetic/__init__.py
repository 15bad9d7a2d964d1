"""Procedurally drawn street scenes: a default for whoever has none of the real datasets, never a stand-in for them."""

from tmt.synthetic.domains import DOMAINS
from tmt.synthetic.render import render, render_ids
from tmt.synthetic.writer import make

__all__ = ["DOMAINS", "make", "render", "render_ids"]
