"""The daemon on a GPU host: it supervises engine processes and gives them an HTTP face. It never computes itself."""
