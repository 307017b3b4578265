"""Verbs on real systems. Each activity observes, decides whether it is done, acts, and confirms by observing again."""
