"""Algorithm 3 and its kin: learners of λ over tasks, on one task, on many devices; meta-test."""
