"""Studies: many trainings that make one table or figure, planned from a readable file, run, resumed and collected."""

from tmt.studies.definition import Pair, Variant
from tmt.studies.results import Result
from tmt.studies.study import Study

__all__ = ["Pair", "Result", "Study", "Variant"]
