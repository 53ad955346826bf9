"""The typed whole: what may be set, checked before anything heavy is imported.

`params.yaml` holds every default. Sections are strict: an unknown key, a wrong type or an impossible combination is
refused with its path, its value and what is allowed. Options of a variant come from the variant's own signature.
"""

from attndistill.config.layers import flat, nested, overlay, read_yaml
from attndistill.config.method import Recipe
from attndistill.config.resolution import resolve
from attndistill.config.schema import Config, Runtime, Teacher, Views
from attndistill.config.sizes import PRESETS, describe

__all__ = [
    "PRESETS",
    "Config",
    "Recipe",
    "Runtime",
    "Teacher",
    "Views",
    "describe",
    "flat",
    "nested",
    "overlay",
    "read_yaml",
    "resolve",
]
