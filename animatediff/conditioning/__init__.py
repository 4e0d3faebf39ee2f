"""From prompts to the text embeddings that steer a run."""
