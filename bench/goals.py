"""What has been aimed at, as data beside what is measured: ratios of a peer's figure to ours."""

from dataclasses import dataclass

WORDS = {"ms": "{:.2f} times as fast as {}", "MiB": "1/{:.1f} of the memory of {}"}
AIMS = {"ms": "{:g} times as fast as {}", "MiB": "1/{:g} of the memory of {}"}
PARITY = {"ms": "no slower than {}", "MiB": "no more memory than {}"}  # the same where the ratio is 1

Figures = dict[str, float | None]  # by contestant; None: it cannot do this


SMALLEST = 1e-3  # of either unit, so that a ratio exists


@dataclass(frozen=True)
class Goal:
    """Ours must be `least` times better than the best of `against`, or, with `most`, at most that many units."""

    unit: str  # "ms" or "MiB"
    against: tuple[str, ...] = ()
    least: float = 1.0
    most: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A goal and what came of it."""

    goal: str  # what was aimed at
    value: float  # the ratio, or ours where the goal is a limit
    met: bool
    text: str  # both in words


def judge(goal: Goal, figures: Figures) -> Verdict | None:
    """The verdict on one goal; None where nobody it names has a figure. Ours is the first of the figures."""
    own = next(iter(figures.values()))
    if goal.most is not None:
        aim = f"at most {goal.most:g} {goal.unit}"
        return Verdict(aim, own, own <= goal.most, f"{own:.3f} {goal.unit} (goal {aim})")
    peers = {name: figures[name] for name in goal.against if figures.get(name) is not None}
    if not peers:
        return None
    best = min(peers, key=peers.__getitem__)
    ratio = peers[best] / max(own, SMALLEST)
    named = " / ".join(goal.against)
    aim = PARITY[goal.unit].format(named) if goal.least == 1 else AIMS[goal.unit].format(goal.least, named)
    return Verdict(aim, ratio, ratio >= goal.least, f"{WORDS[goal.unit].format(ratio, best)} (goal {goal.least:g})")


# ---- who competes, under the names the tables have -------------------------------------------------------------------

UNFOLD, SCATTER = ("unfold", "compiled unfold"), ("gather/scatter",)  # which the goals were set against
WINDOWS = ("windows", "compiled windows")  # faster than those, held to the same goals
SDPA_FORMS = ("sdpa", "sdpa, gathered")
MASK2FORMER = ("mask2former",)
FLEX = ("flex",)
FLOAT32 = ("tmt float32",)
TRANSFORMERS = ("transformers",)
DEFORMABLE = ("transformers", "compiled transformers")

BFLOAT16 = (Goal("ms", FLOAT32, 1.0),)

# ---- CPU -------------------------------------------------------------------------------------------------------------

SUPERPIXEL_MEMORY = (Goal("MiB", UNFOLD + WINDOWS, 3.0), Goal("MiB", SCATTER, 3.0))
SUPERPIXEL_FORWARD = (*(Goal("ms", peers, 5.0) for peers in (UNFOLD, WINDOWS, SCATTER)), *SUPERPIXEL_MEMORY)
SUPERPIXEL_BOTH = (*(Goal("ms", peers, 4.0) for peers in (UNFOLD, WINDOWS, SCATTER)), *SUPERPIXEL_MEMORY)
ATTENTION_MEMORY = Goal("MiB", SDPA_FORMS + MASK2FORMER, 4.0)
ATTENTION_FORWARD = (Goal("ms", SDPA_FORMS, 1.7), Goal("ms", MASK2FORMER, 8.0), ATTENTION_MEMORY)
ATTENTION_FORWARD_BLOBS = (Goal("ms", SDPA_FORMS, 2.5), Goal("ms", MASK2FORMER, 8.0), ATTENTION_MEMORY)
ATTENTION_BOTH = (Goal("ms", SDPA_FORMS, 2.0), Goal("ms", MASK2FORMER, 4.0), ATTENTION_MEMORY)
DECODER_INFERENCE = (Goal("ms", TRANSFORMERS, 2.0), Goal("MiB", TRANSFORMERS, 1.0))
DEFORMABLE_PASS = (Goal("ms", DEFORMABLE, 4.0), Goal("MiB", DEFORMABLE, 4.0))  # either pass
MODEL_INFERENCE = (Goal("ms", TRANSFORMERS, 1.6),)  # Swin-T, 512x1024, as what follows
MODEL_TRAINING = (Goal("ms", TRANSFORMERS, 1.8), Goal("MiB", TRANSFORMERS, 1 / 0.7))
DECODER_TRAINING = (Goal("ms", TRANSFORMERS, 1.5), Goal("MiB", TRANSFORMERS, 1.0))

# ---- CUDA, bfloat16, at the sizes named in bench/gpu.py --------------------------------------------------------------

CUDA_SUPERPIXEL_FORWARD = (Goal("ms", most=0.3), Goal("ms", ("compiled unfold",), 8.0), Goal("ms", WINDOWS, 8.0))
CUDA_SUPERPIXEL_BACKWARD = (Goal("ms", most=1.0),)
CUDA_ATTENTION_FORWARD = (Goal("ms", most=0.075), Goal("ms", SDPA_FORMS + FLEX, 3.0))
CUDA_ATTENTION_BOTH = (Goal("ms", SDPA_FORMS + FLEX, 2.0),)
