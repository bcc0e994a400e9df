"""`python3 -m sglang.launch_server FLAGS…`, as in SGLang's image."""

from __future__ import annotations

import sys

from e2e.simulators.engine.__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = ["python3", "-m", "sglang.launch_server"]
    sys.exit(main())
