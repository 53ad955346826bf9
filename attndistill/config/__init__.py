"""The typed whole: what may be set, checked before anything heavy is imported.

`params.yaml` holds every default. Sections are strict: an unknown key, a wrong type or an impossible combination is
refused with its path, its value and what is allowed. Options of a variant come from the variant's own signature.
"""

from attndistill.config.layers import flat, nested, overlay
from attndistill.config.method import Distill, Targets
from attndistill.config.resolution import resolve
from attndistill.config.schema import Config, Pretrain, Runtime, Teacher, Views
from attndistill.core.plain_yaml import read_yaml

__all__ = [
    "Config",
    "Distill",
    "Pretrain",
    "Runtime",
    "Targets",
    "Teacher",
    "Views",
    "flat",
    "nested",
    "overlay",
    "read_yaml",
    "resolve",
]
