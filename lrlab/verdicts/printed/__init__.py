"""Print verdicts and answers: sentences, tables, JSON.

Each file turns one kind of result into text, and judges nothing. May be imported wherever
``verdicts`` may.
"""
