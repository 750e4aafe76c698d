"""Work chains: train, generate, validate, and the loop of all three."""
