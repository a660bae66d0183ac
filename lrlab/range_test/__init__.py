"""The range test: find's inputs, reading, files and figure."""
