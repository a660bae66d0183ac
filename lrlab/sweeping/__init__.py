"""A whole sweep: opened, worked on, ended."""
