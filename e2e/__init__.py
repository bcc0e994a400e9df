"""End to end: a local cluster of real parts, simulated engines and providers, load, and the scenarios that use them."""
