"""Writes what was decided: children, status, events. Compares first, so an idle tick writes nothing."""
