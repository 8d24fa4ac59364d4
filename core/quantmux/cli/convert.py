"""convert."""


def convert() -> None:
    """TODO."""
