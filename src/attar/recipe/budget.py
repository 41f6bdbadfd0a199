"""The budget: hard limits on what the artifact may cost."""
