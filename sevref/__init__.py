"""AMD SEV key management as a specification that runs."""

__version__ = "0.1.0"
