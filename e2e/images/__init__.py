"""Container images of Spillway and of the simulators, also on machines that reach no image registry.

`build` makes what is missing; `python -m e2e.images check` looks into the images and runs them locked down.
"""

from __future__ import annotations

from e2e.images.builder import build
from e2e.images.debian import ImageError
from e2e.images.recipes import RECIPES, Recipe

__all__ = ["RECIPES", "ImageError", "Recipe", "build"]
