"""Finding images that do not belong to the training distribution."""
