"""Benchmarks: what the product claims, measured. Each writes JSON to build/bench and prints what it found."""
