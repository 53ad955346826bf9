"""Vision transformers: students, the masked autoencoder, the projector, and what is read out of them."""
