"""The neural networks. They know no files, jobs or settings."""
