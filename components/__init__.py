"""The stages as Kubeflow components: typed inputs and outputs, and one call into the library."""
