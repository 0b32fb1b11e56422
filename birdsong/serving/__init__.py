"""The inference server, and what stands around it."""
