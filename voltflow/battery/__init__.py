"""Battery knowledge that edge, training and simulator share: chemistry, estimator, features."""
