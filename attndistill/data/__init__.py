"""Data sets, their stored form, and the views training sees."""

from attndistill.core.registry import Registry

DATASETS: Registry = Registry("data set", "attndistill.data.datasets")
