"""The notebook layer: commands, displays and tables. It contains no routing or quota rules."""
