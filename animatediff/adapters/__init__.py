"""Changes to a model that can be undone: motion modules and patched weights."""
