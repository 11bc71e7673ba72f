"""What a block or a network costs: by formula, by counting, and measured."""
