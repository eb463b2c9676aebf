"""The whole path of one run: stages, their caching, and the folder that holds the evidence."""

from expunge.pipeline.run import RunResult, run_recipe

__all__ = ["RunResult", "run_recipe"]
