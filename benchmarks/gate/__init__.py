"""Validation of `weighin gate`: how often its verdicts are wrong, in cases whose right verdict is known."""
