"""SageMaker: jobs, registry, endpoints and their prices; what runs inside of its containers."""
