# SPDX-License-Identifier: Apache-2.0
"""Winograd convolutions in float32 beside oneDNN's direct ones, and ResNet-18 with them.

    python benchmarks/winograd_kernels.py [--only WORD ...] [--rounds N] [--json | --markdown]
                                  [--output [FILE]]

Layers: `WinogradConv2d` with the algorithm that `accelerate` chooses, beside PyTorch's conv2d on
the same channels-last tensors (oneDNN, which reorders the filters in every call), and beside oneDNN
with filters reordered before, as compilers call it. Where `accelerate` leaves the plain
convolution, both first sides are the same, and the ratio says what the machine's noise is.

Networks: ResNet-18 with folded batch normalisation in PyTorch (channels last; eager, and compiled
with its weights frozen), both after `accelerate(fuse_relu=True)`, ONNX Runtime and OpenVINO, all
float32 with the same weights.

Nobody is timed before its answer is verified: layers against PyTorch in float64, networks against
PyTorch. All take turns in one process with one thread; CPU time, in every round a ratio; shown are
the median and the 10th to 90th percentile.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import resnets
import torch
import torch._inductor.config
from results_file import provenance, results_file, write
from torch import Tensor, nn
from torch_resnet import resnet18

from thinmaps.measure import openvino_peer
from thinmaps.measure.timing import Spread, interleaved, ratio, spread
from thinmaps.winograd import accelerate

MOST_LAYER_ERROR = 5e-5  # of the output's root mean square
MOST_NETWORK_ERROR = 1e-3
OURS = "thinmaps.winograd in torch"
SIZES = ((224, 224), (1088, 1920))

# (input channels, output channels, height, width): ResNet-18's at 224 and its first at 1080p, then
# shapes that are small in one way or another.
LAYERS = (
    (64, 64, 56, 56),
    (128, 128, 28, 28),
    (256, 256, 14, 14),
    (512, 512, 7, 7),
    (64, 64, 540, 960),
    (3, 64, 224, 224),
    (16, 16, 112, 112),
    (32, 32, 14, 14),
    (64, 64, 7, 7),
    (48, 96, 21, 21),
    (512, 24, 14, 14),
    (512, 512, 3, 3),
    (8, 8, 8, 8),
)

Side = Callable[[], Any]


@dataclass(frozen=True)
class Layer:
    """A layer's times, errors relative to the output's root mean square, and ratios of times."""

    name: str
    algorithm: str | None
    largest_error: float
    torch_largest_error: float
    ms: Spread
    torch_ms: Spread
    reordered_ms: Spread
    ratio: Spread
    ratio_to_reordered: Spread


@dataclass(frozen=True)
class Network:
    """A network at a size: milliseconds by side, and each of ours beside the fastest other side."""

    name: str
    replaced: dict[str, str]
    ms: dict[str, Spread]
    fastest_peer: str
    ratios: dict[str, Spread]


def conv_of(shape: Sequence[int]) -> tuple[nn.Sequential, Tensor]:
    """A convolution of He's size alone in a module, and an input as it is behind a ReLU."""
    c, k, h, w = shape
    generator = torch.Generator().manual_seed(sum(shape))
    conv = nn.Conv2d(c, k, 3, padding=1)
    with torch.no_grad():
        conv.weight.normal_(0, float(np.sqrt(2 / (9 * c))), generator=generator)
        assert conv.bias is not None
        conv.bias.normal_(0, 0.1, generator=generator)
    x = torch.randn((1, c, h, w), generator=generator).relu_()
    last = torch.channels_last
    return nn.Sequential(conv).eval().to(memory_format=last), x.contiguous(memory_format=last)


def reordered(conv: nn.Conv2d, x: Tensor) -> Callable[[], Tensor]:
    """oneDNN with filters in the order that it wants."""
    ones, pads = [1, 1], [1, 1]
    shape = list(x.shape)
    operators = torch.ops.mkldnn
    weight = operators._reorder_convolution_weight(conv.weight, pads, ones, ones, 1, shape)
    arguments = (x, weight, conv.bias, pads, ones, ones, 1, "none", [], "")
    return lambda: operators._convolution_pointwise(*arguments)


def largest_error(y: Tensor, exact: Tensor) -> float:
    """Relative to the root mean square."""
    return float((y - exact).abs().max() / exact.square().mean().sqrt())


def measure_layer(shape: Sequence[int], rounds: int) -> Layer:
    """Verify and time one layer."""
    network, x = conv_of(shape)
    conv = network[0]
    assert isinstance(conv, nn.Conv2d)
    exact = torch.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    replaced = accelerate(network, x)
    plain = nn.Sequential(conv)  # a module around it as around ours: it costs microseconds
    sides = [lambda: network(x), lambda: plain(x), reordered(conv, x)]
    errors = [largest_error(side(), exact) for side in sides]
    assert max(errors) <= MOST_LAYER_ERROR, f"{shape} differ from float64 by {errors}"
    del exact
    ours, theirs, packed = (timing.cpu for timing in interleaved(sides, rounds))
    return Layer(
        "{}-{} {}x{}".format(*shape),
        replaced[0].algorithm if replaced else None,
        *errors[:2],
        spread(ours),
        spread(theirs),
        spread(packed),
        ratio(ours, theirs),
        ratio(ours, packed),
    )


def sides_of(plain: nn.Module, fast: nn.Module, x: Tensor, file: Path) -> dict[str, Side]:
    """ResNet-18 everywhere; each returns its scores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    values = x.contiguous().numpy()
    sides: dict[str, Side] = {
        OURS: partial(fast, x),
        f"{OURS}, compiled": partial(torch.compile(fast), x),
        "torch": partial(plain, x),
        "torch, compiled": partial(torch.compile(plain), x),
        "onnxruntime": lambda: session.run(None, {"picture": values})[0],
    }
    if openvino_peer.installed():
        # Unless told otherwise it computes in bfloat16 where the processor can.
        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        request = openvino_peer.load().Core().compile_model(file, "CPU", settings)
        request = request.create_infer_request()
        run = openvino_peer.run_of(request, values)
        sides["openvino"] = lambda: (run(), request.output_tensors[0].data)[1]
    return sides


def measure_network(size: tuple[int, int], rounds: int) -> Network:
    """Verify and time ResNet-18 at a size."""
    model = resnets.resnet((2, 2, 2, 2), bottleneck=False, size=size)
    x = torch.rand((1, 3, *size), generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)
    plain, fast = resnet18(model), resnet18(model)
    replaced = accelerate(fast, x, fuse_relu=True)
    with TemporaryDirectory(prefix="thinmaps-") as folder:
        file = Path(folder) / "resnet18.onnx"
        onnx.save(model, file)
        sides = sides_of(plain, fast, x, file)
    expected = torch.as_tensor(sides["torch"]())
    for name, side in sides.items():
        error = largest_error(torch.as_tensor(side()), expected)
        assert error <= MOST_NETWORK_ERROR, f"{name} differs by {error}"
    timed = {
        name: timing.cpu
        for name, timing in zip(sides, interleaved([*sides.values()], rounds), strict=True)
    }
    peers = [name for name in timed if not name.startswith(OURS)]
    best = min(peers, key=lambda name: np.median(timed[name]))
    return Network(
        f"ResNet-18 {size[0]}x{size[1]}",
        {each.name: each.algorithm for each in replaced},
        {name: spread(seconds) for name, seconds in timed.items()},
        best,
        {name: ratio(timed[name], timed[best]) for name in timed if name not in peers},
    )


def words(found: dict[str, float]) -> str:
    return f"{found['median']:.2f} ({found['p10']:.2f} to {found['p90']:.2f})"


def markdown(document: dict[str, Any]) -> str:
    """Both tables."""
    lines = [
        "| layer | algorithm | thinmaps | conv2d | of conv2d | of oneDNN, reordered | error |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each['name']} | {each['algorithm'] or 'conv2d'} | {each['ms']['median']:.3f} ms "
        f"| {each['torch_ms']['median']:.3f} ms | {words(each['ratio'])} "
        f"| {words(each['ratio_to_reordered'])} | {each['largest_error']:.1e} |"
        for each in document["layers"]
    ]
    lines += ["", "| network | side | ms | thinmaps / fastest other |", "|---|---|---|---|"]
    for each in document["networks"]:
        for side, ms in each["ms"].items():
            beside = words(each["ratios"][side]) if side in each["ratios"] else ""
            time = f"{ms['median']:.1f} ({ms['p10']:.1f} to {ms['p90']:.1f})"
            lines.append(f"| {each['name']} | {side} | {time} | {beside} |")
    return "\n".join(lines)


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="words in the names")
    parser.add_argument("--rounds", type=int, default=15)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true")
    shown.add_argument("--markdown", action="store_true")
    file = results_file("-winograd")
    parser.add_argument("--output", nargs="?", type=Path, const=file, help="write the JSON here")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"a spread needs at least 2 rounds, got --rounds {options.rounds}")
    torch.set_num_threads(1)
    torch._inductor.config.freezing = True
    document: dict[str, Any] = {**provenance(), "rounds": options.rounds}
    document |= {"layers": [], "networks": []}

    def wanted(name: str) -> bool:
        return all(word in name for word in options.only)

    with torch.inference_mode():
        for shape in LAYERS:
            if wanted("{}-{} {}x{}".format(*shape)):
                document["layers"].append(asdict(measure_layer(shape, options.rounds)))
                print(json.dumps(document["layers"][-1]), file=sys.stderr)
                write(document, options.output)
        for size in SIZES:
            if wanted("ResNet-18 {}x{}".format(*size)):
                document["networks"].append(asdict(measure_network(size, options.rounds)))
                print(json.dumps(document["networks"][-1]), file=sys.stderr)
                write(document, options.output)
    if options.json or options.markdown:
        print(json.dumps(document, indent=2) if options.json else markdown(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
