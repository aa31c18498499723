"""The child side: one engine a module, each behind the same small protocol, each in a process of its own."""
