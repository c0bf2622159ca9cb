"""Attribution of predictions to training examples: which approximations are worth how much."""
