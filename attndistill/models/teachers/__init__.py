"""Released teacher checkpoints: read without running anything, recognised, loaded strictly, reported."""

from typing import Any

from attndistill.core.registry import Registry

TEACHER_FORMATS: Registry[Any] = Registry("teacher format", "attndistill.models.teachers.formats")
TEACHER_SOURCES: Registry[Any] = Registry("teacher source", "attndistill.models.teachers.sources")
