"""What goes wrong with an artifact."""


class ArtifactError(ValueError):
    """The folder is no artifact, or not the one that was saved, or asks for what is not done unasked."""
