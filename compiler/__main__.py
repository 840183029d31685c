"""`python -m pangu_compile`."""

import sys

from pangu_compile.cli import main

if __name__ == "__main__":
    sys.exit(main())
