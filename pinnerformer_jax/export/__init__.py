"""A trained run as files that serve without this package."""
