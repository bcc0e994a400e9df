"""The gateway with the real Envoy, the real ADS server and small fakes of engines and providers."""
