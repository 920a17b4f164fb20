"""Methods for few: built on the core, never imported by it."""

__all__: list[str] = []
