"""A real estate on one machine: its servers, its faults, its traffic and its referee."""
