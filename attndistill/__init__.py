"""attndistill: attention distillation of self-supervised vision transformers, with figures that can be rebuilt.

Nothing heavy is imported here: `attndistill --help` must answer at once.
"""

__version__ = "0.1.0"
