#!/opt/cortex/bin/python
"""Ask the program of this container for its health: exit status 0 if it answers. One argument, its port."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

SECONDS = 3.0


def main() -> None:
    """Ask, with the node's token if there is one."""
    request = Request(f"http://127.0.0.1:{sys.argv[1]}/health")
    token_file = os.environ.get("NEURON_TOKEN_FILE")
    if token_file:
        request.add_header("authorization", f"Bearer {Path(token_file).read_text().strip()}")
    try:
        urlopen(request, timeout=SECONDS).close()
    except (URLError, TimeoutError) as error:
        sys.exit(f"no health: {error}")


if __name__ == "__main__":
    main()
