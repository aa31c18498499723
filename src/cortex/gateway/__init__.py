"""The gateway: I/O around the decisions of `cortex.fleet`. It touches no GPU and imports no inference stack."""
