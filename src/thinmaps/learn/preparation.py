# SPDX-License-Identifier: Apache-2.0
"""From a user's module to a `Student`: capture, calibrate (or take a plan's scales), add codecs.

Calibrated, a student begins as the very network that `compress` makes of the same module and the
same pictures: its weights are those that calibration rounded, its answers the engine's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from thinmaps.calibrate.calibration import calibrate as calibrate_network
from thinmaps.calibrate.picture_set import PictureSet, network_values, open_pictures
from thinmaps.codecs import Codec
from thinmaps.compression import fit_codec, parse_codec
from thinmaps.errors import BadArgument, BadModel
from thinmaps.export.operators import weight_scale
from thinmaps.file import Model
from thinmaps.graph.float_network import FloatConv, FloatNetwork, MapQuantisation
from thinmaps.graph.network import Network
from thinmaps.graph.onnx_reader import normalise
from thinmaps.graph.operators import CodedConv, Conv, ConvTranspose
from thinmaps.graph.quantise import quantised_name, real_values
from thinmaps.graph.scales import scale_maps
from thinmaps.learn.captured import Captured, capture
from thinmaps.learn.student import Calibrated, Student
from thinmaps.plan.build import build
from thinmaps.plan.held import held_maps
from thinmaps.plan.plan import Plan
from thinmaps.prepared import Progress, preprocessing_for
from thinmaps.run.engine import Engine
from thinmaps.types import Preprocessing

Pictures = str | Path | PictureSet | Tensor | Iterable[Any]
Codecs = str | Mapping[str, Codec | str]

PICTURES_TO_FIT = 64  # of each map, for codecs that are asked for by id


def prepare(
    model: nn.Module | Captured,
    example: Tensor,
    plan: Plan | Model | None = None,
    *,
    calibrate: Pictures | None = None,
    codecs: Codecs | None = None,
    preprocessing: Preprocessing | None = None,
    progress: Progress | None = None,
) -> Student:
    """The student of a module.

    Args:
        model: the user's module, which stays as it is, or what `capture` or `read_network` made.
        example: float `n c h w` as the module takes it; its size is the student's own.
        plan: of this module (`compress(capture(model, example).model, ...)`, or of a file with the
            same layers in the same order): its scales, weights and codecs are taken.
        calibrate: without a plan, what to calibrate on: pictures as `compress` takes them, or
            float tensors `n c h w` or `c h w` as the module takes them (alone, in an iterable, or
            first in the tuples of a loader).
        codecs: instead of the plan's, a codec or a request like "narrow:4" for each named map, or
            one request for every map that runs layer by layer hold.
        preprocessing: of pictures; ImageNet's where none is given.
        progress: called with (what, done, of) while calibrating.

    Raises:
        BadModel: the module cannot be captured; the plan is of another network.
        BadArgument: neither a plan nor pictures; no such map.
    """
    captured = model if isinstance(model, Captured) else capture(model, example)
    network, clean = normalise(captured.model)
    shape = network.shapes[network.inputs[0]]
    if plan is not None:
        made_of, codecs_of = _of_plan(
            captured, network, plan.plan if isinstance(plan, Model) else plan
        )
        examples = iter(example.detach().cpu().float().permute(0, 2, 3, 1).numpy().copy())
        asked = codecs_of if codecs is None else codecs
    elif calibrate is None:
        raise BadArgument(
            "a student needs scales for its maps: give a plan, or calibrate=pictures to find them"
        )
    else:
        pictures = _pictures(calibrate).fitting()
        bytes_come = next(iter(pictures.at_most(1).read()))[1].dtype == np.uint8
        known = preprocessing_for(network, preprocessing) if bytes_come else None
        found = calibrate_network(clean, network, pictures, known, progress=progress)
        maps = scale_maps(network, found.ranges)
        made_of = Calibrated(captured, found.calibrated(network), maps, found.factors)
        examples = float_pictures(pictures.at_most(PICTURES_TO_FIT), shape, known)
        asked = codecs or {}
    bare = Student(made_of, {})
    return Student(made_of, _codecs(bare, asked, examples)) if asked else bare


def _pictures(given: Any) -> PictureSet:
    """Pictures as they come, tensors as float arrays (h, w, c)."""
    if isinstance(given, str | Path | PictureSet):
        return open_pictures(given)
    return open_pictures(list(_arrays(given)))


def _arrays(given: Any) -> Iterator[NDArray[Any]]:
    for item in given:
        first = item[0] if isinstance(item, tuple | list) else item
        if not isinstance(first, Tensor):
            yield first
            continue
        batch = first.detach().cpu().float()
        for picture in batch if batch.ndim == 4 else batch[None]:
            yield np.ascontiguousarray(picture.permute(1, 2, 0).numpy())


def _of_plan(
    captured: Captured, network: FloatNetwork, plan: Plan
) -> tuple[Calibrated, dict[str, Codec]]:
    """The plan's weights and scales in the captured network; its codecs, by captured names."""
    given = plan.source
    names = _matched(network, given)
    own = {theirs: ours for ours, theirs in names.items()}
    maps = {
        ours: MapQuantisation(given.maps[theirs].scale, given.maps[theirs].zero_point)
        for ours, theirs in names.items()
    }
    nodes = []
    for node in network.nodes:
        if isinstance(node.operator, FloatConv):
            made = given.producer[names[node.output]]
            node = replace(node, operator=_weights_of(node.operator, given, made.name))
        nodes.append(node)
    codecs = {own[name]: codec for name, codec in plan.codecs.items() if name in own}
    start = replace(network, nodes=tuple(nodes))
    return Calibrated(captured, start, maps, None), codecs


def _matched(network: FloatNetwork, given: Network) -> dict[str, str]:
    """Our map names -> the plan's, by name, or by order where the same layers follow each other."""
    inputs = {name: quantised_name(name) for name in network.inputs}
    ours = [node.output for node in network.nodes]
    entries = [node.output for node in given.nodes if node.inputs[0] in given.inputs]
    theirs = [node.output for node in given.nodes if node.output not in entries]
    if set(ours) == set(theirs):
        return dict(zip(ours, ours, strict=True)) | inputs
    shapes = [network.shapes[name] for name in ours]
    if shapes != [given.maps[name].shape for name in theirs] or len(entries) != len(inputs):
        raise BadModel(
            f"the plan is of another network: it has {len(theirs)} maps, the module's has "
            f"{len(ours)}, and their sizes differ; compress capture(model, example).model"
        )
    return dict(zip(ours, theirs, strict=True)) | dict(zip(network.inputs, entries, strict=True))


def _weights_of(conv: FloatConv, given: Network, name: str) -> FloatConv:
    """The float layer with the integers of the plan's node."""
    node = next(node for node in given.nodes if node.name == name)
    operator = node.operator
    if not isinstance(operator, Conv | CodedConv | ConvTranspose) or (
        operator.weights.shape != conv.weights.shape
    ):
        raise BadModel(f"the plan is of another network: its node {name!r} is another layer")
    source, made = given.input_specs(node)[0], given.output_spec(node)
    scale = weight_scale(operator.multiplier, source.scale, made.scale)
    bias = operator.bias * (np.float64(source.scale) * scale)
    return replace(
        conv,
        integer_weights=operator.weights,
        weight_scale=scale,
        bias=bias.astype(np.float32),
        coded=operator.filters if isinstance(operator, CodedConv) else None,
    )


def _codecs(
    student: Student, asked: Codecs, pictures: Iterable[NDArray[np.float32]]
) -> dict[str, Codec]:
    """The codecs as they are; those asked for by id are fitted on the student's own maps."""
    network = student.network()
    if isinstance(asked, str):
        asked = dict.fromkeys(held_maps(build(network, schedule="layer")), asked)
    for name in asked:
        student.check_map(name)
    requests = {name: each for name, each in asked.items() if isinstance(each, str)}
    for request in requests.values():
        parse_codec(request)
    samples = _samples(network, list(requests), pictures) if requests else {}
    return {
        name: fit_codec(each, network, name, samples[name]) if isinstance(each, str) else each
        for name, each in asked.items()
    }


def _samples(
    network: Network, names: list[str], pictures: Iterable[NDArray[np.float32]]
) -> dict[str, NDArray[np.uint8]]:
    """Bytes `(n, h, w, c)` of the named maps."""
    engine = Engine(build(network.ending_in(names), schedule="layer"))
    seen = [engine.maps(picture) for picture in pictures]
    return {name: np.stack([maps[name] for maps in seen]) for name in names}


def float_pictures(
    pictures: PictureSet, shape: tuple[int, int, int], preprocessing: Preprocessing | None
) -> Iterator[NDArray[np.float32]]:
    """Pictures as the module takes them, float32 (h, w, c)."""
    for name, picture in pictures.read():
        fitted = network_values(name, picture, shape, preprocessing)
        yield np.ascontiguousarray(real_values(fitted, preprocessing).transpose(1, 2, 0))
