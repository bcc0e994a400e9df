"""Spillway: serves Mixture-of-Experts models on Kubernetes at the lowest cost that keeps the promise to users."""
