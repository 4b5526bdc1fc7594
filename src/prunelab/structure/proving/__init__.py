"""Trial removals that prove the trace, and remedies for operators that fail in a trial."""
