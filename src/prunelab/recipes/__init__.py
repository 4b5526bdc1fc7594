"""Recipes: the rounds of pruning and training of a network."""

from prunelab.recipes.recipe import FrontToBack, Iterative, OneShot, Recipe, Round

__all__ = ["FrontToBack", "Iterative", "OneShot", "Recipe", "Round"]
