"""Which runs a sweep has, and who trains them: a study that workers share."""
