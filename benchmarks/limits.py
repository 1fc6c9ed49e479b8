# SPDX-License-Identifier: Apache-2.0
"""Where our time goes, and what the machine's measured rates would allow.

    python benchmarks/limits.py [--networks NAME|FILE.onnx ...] [--sizes HxW ...] [--rounds N]
                                [--output [FILE]] [--read FILE]

One line per network and size: milliseconds of one inference with one thread, the limit of
`thinmaps.measure.profile` for its steps, and the kinds of nodes that take the most, each with its
share of the time and, behind the slash, how much of the limit's rate it reaches. What
`thinmaps bench --profile` says of each node goes into the JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from results_file import provenance, results_file, write
from sources import add_source_options, sources

from thinmaps.measure.profile import profile

HEAD = "| network | ms | limit ms | of limit | where the time goes |\n|---|---|---|---|---|"
SHOWN_KINDS = 4


def row(result: dict[str, Any]) -> str:
    """A line of the table."""
    found = result["profile"]
    name = f"{result['network']}, {result['size'][0]}x{result['size'][1]}"
    total = found["total"]
    kinds = ", ".join(
        f"{kind['kind']} {100 * kind['share']:.0f} % / {100 * of_limit(kind):.0f} %"
        for kind in found["kinds"][:SHOWN_KINDS]
    )
    return (
        f"| {name} | {total['ms']:.2f} | {total['limit_ms']:.2f} | "
        f"{100 * of_limit(total):.0f} % | {kinds} |"
    )


def of_limit(share: dict[str, Any]) -> float:
    """The limit over the time."""
    return float(share["limit_ms"] / max(share["ms"], 1e-6))


def main() -> None:
    """Profile what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_source_options(parser)
    parser.add_argument("--output", nargs="?", type=Path, const=results_file("-limits"))
    parser.add_argument("--read", type=Path, help="a JSON to show; nothing is measured")
    options = parser.parse_args()
    print(HEAD)
    if options.read:
        print("\n".join(map(row, json.loads(options.read.read_text())["results"])))
        return
    document: dict[str, Any] = {**provenance(), "rounds": options.rounds, "results": []}
    for source in sources(options.networks, options.assets):
        for size in options.sizes:
            planned = source.planned(size)
            found = profile(planned.model, planned.pictures[0], rounds=options.rounds)
            result = {"network": source.name, "size": size, "profile": found.to_json()}
            document["results"].append(result)
            write(document, options.output)
            print(row(result), flush=True)


if __name__ == "__main__":
    main()
