"""Adversarial variational autoencoders: train, reconstruct, sample, and find outliers."""
