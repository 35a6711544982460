"""Words of messages that depend on numbers."""


def count_of(number: int, noun: str) -> str:
    """Return "1 line" for (1, "line"), and "1,234 lines" for (1234, "line")."""
    return f"{number:,} {noun if number == 1 else f'{noun}s'}"
