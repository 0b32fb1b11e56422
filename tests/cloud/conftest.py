"""The fixtures of the server that stands for SageMaker."""

from sagemaker_server.fixtures import resolved, server, surroundings

__all__ = ["resolved", "server", "surroundings"]
