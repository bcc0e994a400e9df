"""What Spillway applies, for review: one file for each combination of model, precision, GPU, engine and parallelism."""
