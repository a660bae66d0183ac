"""What the figures over the lr share: the table of ends, marks, the recommended range, a search."""
