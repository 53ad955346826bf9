"""Probes: how good frozen features are, by named and versioned protocols."""

from typing import Any

from attndistill.core.registry import Registry

PROBES: Registry[Any] = Registry("probe", "attndistill.probes.classifiers")
