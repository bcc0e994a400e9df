"""Simulation request by request: what arrives one by one is drawn or read (`draw`), replicas share their time between
what they have (`sharing`), a gate and providers decide where each request goes (`serving`, `outside`), and what became
of it (`records`) tells what no fluid can: latencies, and who was refused (`latency`).

Life cycle of replicas, money, faults and pilots are those of the fluid.
"""
