"""What stands around the panels of a figure."""
