"""`spillway`, also installed as `kubectl-spillway`: the operator and gateway processes, and questions to a cluster."""
