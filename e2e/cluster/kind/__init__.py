"""A kind cluster: real kubelets, containers, Services and cluster DNS, also where no image can be pulled."""
