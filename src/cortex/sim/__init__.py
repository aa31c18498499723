"""A fleet in virtual time around the very code that runs a real one."""
