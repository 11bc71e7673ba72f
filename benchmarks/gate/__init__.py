"""Proof of `weighin gate`: how often its verdicts are wrong, where the right one is known."""
