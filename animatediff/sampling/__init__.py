"""From noise to latents: the steps of a sampler and the predictors of noise."""
