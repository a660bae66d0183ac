"""How a process behaves: its output, signals, progress, and the arguments of a verb."""
