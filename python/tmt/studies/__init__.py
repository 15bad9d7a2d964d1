"""Studies: many trainings that make one table or figure, planned from a readable file, run, resumed and collected."""

from tmt.studies.study import Result, Study

__all__ = ["Result", "Study"]
