"""Words and files become a checked config: schema, overrides, search space, targets, trust."""
