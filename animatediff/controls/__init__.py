"""Controls: images that steer single frames, one file per kind."""
