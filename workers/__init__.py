"""Processes: the worker of a region. Only they read the environment; connect.py makes every client."""
