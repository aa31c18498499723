"""The dashboard: its files, its live stream, and the sessions of the browsers that show it."""
