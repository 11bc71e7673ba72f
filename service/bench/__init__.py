"""Controlled measurement: what each model costs on this machine, with evidence that can be carried away."""
