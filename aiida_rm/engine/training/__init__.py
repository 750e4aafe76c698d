"""Perturbed structures to a potential: data, loop, checkpoints, several processes."""
