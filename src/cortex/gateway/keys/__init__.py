"""Keys and their limits: who calls, what they may use, and how much of it."""
