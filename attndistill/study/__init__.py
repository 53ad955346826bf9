"""Search: Optuna studies over settings of the method (lambda, T, depth of P, ...), watched in its dashboard.

Only this package imports optuna. A study file is checked before optuna or torch are imported (`definition`, `search`);
trials run in this process (`trial`), their students through the pipeline's own stages (`validation`), and share data,
teacher and target cache; several workers, here or on several machines, work on one storage (`worker`, `studies`,
`storage`, `lost`); what was found becomes one file and a few figures (`outcome`).
"""
