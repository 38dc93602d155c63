"""The four models that Voltflow releases, one file each."""

from __future__ import annotations

from cloud.training.recipes.base import Recipe
from cloud.training.recipes.failure import Failure
from cloud.training.recipes.rul import Rul
from cloud.training.recipes.soh import Soh
from cloud.training.recipes.temperature import Temperature

__all__ = ["RECIPES", "Failure", "Recipe", "Rul", "Soh", "Temperature"]

RECIPES: tuple[type[Recipe], ...] = (Soh, Temperature, Rul, Failure)
