"""What is shown in the end: tables and pictures of a run, and the report of a study (python -m tmt.report)."""
