"""Wiring: the only room that starts things. Informers feed caches and a work queue; the leader observes, decides,
writes and serves the gateways; every background task is owned here and ends on SIGTERM.
"""
