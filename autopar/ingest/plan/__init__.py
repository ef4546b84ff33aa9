"""Read how an engine is started: commands and configurations -> a plan file of ours."""

from autopar.ingest.plan.reading import Question, Reading, read_plan

__all__ = ["Question", "Reading", "read_plan"]
