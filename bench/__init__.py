"""Measurements on labs of their own. Each prints one JSON object, alone on stdout; a missed target is a result."""
