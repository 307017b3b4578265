"""The runbooks: one file a procedure, read top to bottom; policy/ holds the pure decisions."""
