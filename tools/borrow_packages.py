# SPDX-License-Identifier: Apache-2.0
"""Lets another environment use the packages of this one, without this one's editable thinmaps.

A path in a `.pth` file joins `sys.path`, but the `.pth` files inside of it are not read: every
package is borrowed, and the editable installation stays behind.

    python tools/borrow_packages.py OTHER_ENVIRONMENT
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

if __name__ == "__main__":
    own = sysconfig.get_path("purelib")
    variables = {"base": sys.argv[1], "platbase": sys.argv[1]}
    other = Path(sysconfig.get_path("purelib", vars=variables))
    (other / "borrowed.pth").write_text(own + "\n")
