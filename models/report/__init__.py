"""Generate docs/zoo.md: tables, plots and the effect of each technique."""
