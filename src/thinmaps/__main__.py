# SPDX-License-Identifier: Apache-2.0
"""`python -m thinmaps` is the command, for environments whose scripts are not on the path."""

from thinmaps.cli import main

if __name__ == "__main__":
    main()
