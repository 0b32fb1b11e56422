"""The AWS SAM application: the page and its interface in front of a SageMaker endpoint."""
