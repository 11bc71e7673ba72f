"""Cost of a block or a network: by formula, counted on the module, and measured."""
