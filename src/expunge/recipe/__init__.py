"""What a run is: one YAML file, read into frozen dataclasses, with every mistake reported at once."""

from expunge.recipe.many import expand
from expunge.recipe.parts import (
    TRACKERS,
    AttackPart,
    BudgetPart,
    DataPart,
    EvaluatePart,
    FinetunePart,
    ModelPart,
    Recipe,
    TrainPart,
    UnlearnPart,
)
from expunge.recipe.reading import apply_overrides, parse_attack, parse_recipe, read_recipe

__all__ = [
    "TRACKERS",
    "AttackPart",
    "BudgetPart",
    "DataPart",
    "EvaluatePart",
    "FinetunePart",
    "ModelPart",
    "Recipe",
    "TrainPart",
    "UnlearnPart",
    "apply_overrides",
    "expand",
    "parse_attack",
    "parse_recipe",
    "read_recipe",
]
