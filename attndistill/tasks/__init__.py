"""Tasks: batch -> named losses. The training loop knows nothing else about them."""
