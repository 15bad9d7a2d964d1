"""The training loop and the stages: source, estimator, target."""
