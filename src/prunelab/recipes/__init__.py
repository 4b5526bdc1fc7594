"""Recipes: in how many rounds a network is pruned and trained again."""

from prunelab.recipes.recipe import FrontToBack, Iterative, OneShot, Recipe, Round

__all__ = ["FrontToBack", "Iterative", "OneShot", "Recipe", "Round"]
