# SPDX-License-Identifier: Apache-2.0
"""Whether a native Winograd convolution is faster than a direct one, and which: predicted.

    direct     9 products of every pixel and filter, and 9 weights of every filter read
    Winograd   mu^2 products of every tile and filter; mu^2 floats transformed of every tile and
               channel, of inputs and of outputs; mu^2 weights of every filter read, once, or
               where they do not stay in the cache once for every block of tiles; and a call

each at a rate of its own. Tiles are counted whole and channels in whole vectors, so small maps,
few channels and long filters on few pixels go to the direct convolution. The rates were measured
beside oneDNN, whose direct convolution had its filters reordered before (PyTorch's own conv2d
reorders them in every call, so it is slower than this says, up to twice on small maps).

Source: operation counts as in Lavin and Gray, 2016, arXiv:1509.09308; the model is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from thinmaps import _core
from thinmaps.errors import BadArgument

DIRECT_PRODUCTS = 9  # of a 3x3 filter
FLOAT_BYTES = 4
CACHE_BYTES = 1 << 20
BLOCK_TILES = 18  # of filters that do not stay in the cache: kLeastRows in native/winograd.cc
DEFAULT_ALGORITHM = "F4x3Thirds"  # the fastest but on maps of a few pixels


@dataclass(frozen=True)
class Rates:
    """Of one core: multiply-adds, floats of transforms and bytes of filters in a second; and the
    seconds that a call costs beyond that of a direct convolution."""

    lanes: int
    products: float
    transformed: float
    read_bytes: float
    direct_products: float
    call_seconds: float


# Zen 4 with its second-level cache of 1 MiB, one core; only their proportions matter.
RATES = {
    "avx512": Rates(16, 59e9, 3.6e9, 40e9, 57e9, 30e-6),
    "avx2": Rates(8, 53e9, 3.5e9, 30e9, 52e9, 30e-6),
}


@dataclass(frozen=True)
class Kernel:
    """A compiled algorithm: outputs per tile and products, both in one dimension."""

    index: int
    name: str
    outputs: int
    products: int


@dataclass(frozen=True)
class Convolved:
    """Pictures and size of an output, and channels of a 3x3 convolution."""

    pictures: int
    height: int
    width: int
    inputs: int
    outputs: int


KERNELS = {
    name: Kernel(index, name, outputs, products)
    for index, (name, outputs, products) in enumerate(_core.winograd_algorithms())
}


def kernel(name: str) -> Kernel:
    """The compiled algorithm of this name.

    >>> kernel("F4x3Points").products
    6

    Raises:
        BadArgument: there is none.
    """
    if name not in KERNELS:
        raise BadArgument(
            f"no compiled Winograd algorithm {name!r}; there are {', '.join(KERNELS)}"
        )
    return KERNELS[name]


def rates_here() -> Rates | None:
    """Of the chosen instruction set; None where nothing was measured: there direct ones are faster,
    as PyTorch's use vectors that the portable loops lack."""
    return RATES.get("avx512" if _core.isa() == "amx" else _core.isa())


def direct_seconds(shape: Convolved, rates: Rates) -> float:
    """Of a direct convolution."""
    weights = DIRECT_PRODUCTS * shape.inputs * shape.outputs
    pixels = shape.pictures * shape.height * shape.width
    return pixels * weights / rates.direct_products + weights * FLOAT_BYTES / rates.read_bytes


def seconds(chosen: Kernel, shape: Convolved, rates: Rates) -> float:
    """Of a Winograd convolution."""
    m = chosen.outputs
    tiles = shape.pictures * -(-shape.height // m) * -(-shape.width // m)
    k = -(-shape.outputs // rates.lanes) * rates.lanes
    c = -(-shape.inputs // rates.lanes) * rates.lanes
    points = chosen.products**2
    weights = points * shape.inputs * k
    stay = weights * FLOAT_BYTES <= CACHE_BYTES
    blocks = 1 if stay else -(-tiles // BLOCK_TILES)
    return (
        rates.call_seconds
        + tiles * weights / rates.products
        + tiles * points * (c + k) / rates.transformed
        + blocks * weights * FLOAT_BYTES / rates.read_bytes
    )


def faster(chosen: Kernel, shape: Convolved, rates: Rates | None) -> bool:
    """Whether it is predicted to beat the direct convolution.

    >>> f4 = kernel("F4x3Points")
    >>> faster(f4, Convolved(1, 56, 56, 64, 64), RATES["avx512"])
    True
    >>> faster(f4, Convolved(1, 112, 112, 3, 32), RATES["avx512"])
    False
    """
    return rates is not None and seconds(chosen, shape, rates) < direct_seconds(shape, rates)


def fastest(shapes: tuple[Convolved, ...], rates: Rates | None) -> Kernel | None:
    """The algorithm with which convolutions of these shapes take least in sum; None is direct.

    Of several that take the same it is the first compiled, which rounds least: F4x3Thirds errs by a
    quarter of F4x3Points.

    >>> fastest((Convolved(1, 28, 28, 128, 128),), RATES["avx512"]).name
    'F4x3Thirds'
    """
    if rates is None or not shapes:
        return None
    costs = {
        each: sum(seconds(each, shape, rates) for shape in shapes) for each in KERNELS.values()
    }
    best = min(costs, key=lambda each: costs[each])
    return best if costs[best] < sum(direct_seconds(shape, rates) for shape in shapes) else None
