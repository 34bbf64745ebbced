"""The runtime specification: its documents, their types and their checks."""
