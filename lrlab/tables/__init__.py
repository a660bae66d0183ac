"""Records and logs as data frames."""
