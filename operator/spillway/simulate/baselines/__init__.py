"""Other scalers' rules, as their sources have them, for one deployment with replicas of one kind."""

from spillway.simulate.baselines.rule import Rule, Seen

__all__ = ["Rule", "Seen"]
