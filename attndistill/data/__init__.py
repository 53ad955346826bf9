"""Data sets, their stored form, and the views training sees."""

from typing import Any

from attndistill.core.registry import Registry

DATASETS: Registry[Any] = Registry("data set", "attndistill.data.datasets")
