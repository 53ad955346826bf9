"""What a run would cost, without running it."""
