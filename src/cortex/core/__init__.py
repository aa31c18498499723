"""Values, ids, errors, configuration and logging. No sockets, and no other package of ours."""
