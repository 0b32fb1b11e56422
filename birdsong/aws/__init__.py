"""SageMaker: what runs inside of its containers."""
