"""One file for each estimator; `base` has the types they share."""
