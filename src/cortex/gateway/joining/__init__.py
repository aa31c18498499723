"""How nodes are let into the fleet: invitations, the certificate authority, and the way to joined nodes."""
