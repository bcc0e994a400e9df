"""The pure half of the gateway."""
