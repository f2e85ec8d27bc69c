"""The simulator: the same machines, pipeline and training kernel as a deployment, in one place."""
