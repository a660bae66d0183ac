"""What several test modules use: commands, trainings, made sweeps, servers, processes."""
