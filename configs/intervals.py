"""The level of every interval that C3 states: of accuracies, of diagnostics, of what-if answers."""

CONFIDENCE = 0.95
"""Share of repetitions in which an interval holds the truth."""
