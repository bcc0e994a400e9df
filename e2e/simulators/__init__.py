"""What stands in for the parts that cost money: an inference engine's HTTP server and an external provider's API.

Both answer as the real ones do (shapes, errors, drain, metrics), so that the operator, the gateway and the load
generator cannot tell; the only knowledge they share with a test is a marker in the prompt, `[[out=210]]`, which sets
the number of tokens of the answer and which a real engine would simply read.
"""
