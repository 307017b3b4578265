"""The nouns of Lifeboat: what is declared, asked, observed, decided and reported.

Standard library and pydantic only; every other package may import this one, and it imports none of them.
"""
