"""What every other package stands on: variants, artifacts, randomness and the feature contract."""
