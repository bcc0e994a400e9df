"""Stands for SGLang's package in the simulators' image."""
