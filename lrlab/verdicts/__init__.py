"""From data frames to outcomes, evidence and a recommendation."""
