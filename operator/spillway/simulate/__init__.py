"""A virtual cluster on which `decide.plan` itself, and the rules it is compared with, are played on request traces.

`traces` and `synthetic` give demand, `load` brings it to the size of a fleet, `cluster` serves it, `baselines` are
other scalers' rules, `bounds` what a clairvoyant would have paid.
"""
