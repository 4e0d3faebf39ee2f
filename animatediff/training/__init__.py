"""Training of every part of the model. The service never imports it."""
