"""The pipeline's steps: one function each, the same behind DVC, MLflow and the command line."""
