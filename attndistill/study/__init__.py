"""Search: Optuna studies over settings of the method (lambda, T, depth of P, ...), watched in its dashboard.

Only this package imports optuna. A study file is checked before optuna or torch are imported (`definition`, `plan`);
trials run in this process through the pipeline's own stage functions and share data, teacher and target cache
(`trial`); several workers, here or on several machines, work on one storage (`worker`, `storage`); what was found
becomes one file and a few figures (`outcome`).
"""
