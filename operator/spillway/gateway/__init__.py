"""The gateway: what the deployments, providers and spill numbers mean for Envoy, and the server that tells it so."""
