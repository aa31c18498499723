"""What became of every request: handed over once when it ends, counted, kept, and told again when asked."""
