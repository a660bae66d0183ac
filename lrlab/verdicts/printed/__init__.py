"""Verdicts and answers as they are printed: sentences, tables, JSON."""
