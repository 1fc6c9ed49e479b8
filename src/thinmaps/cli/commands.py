# SPDX-License-Identifier: Apache-2.0
"""The commands. What needs ONNX is imported by the commands that need it: `run` works without."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from thinmaps.cli import options
from thinmaps.cli.printing import (
    print_json,
    say,
    show_comparison,
    show_derived,
    show_evaluation,
    show_learning,
    show_map_profile,
    show_predictions,
    show_profile,
    show_report,
    show_verification,
)
from thinmaps.file import check_writable, load, save
from thinmaps.progress import LateBar

app = typer.Typer(
    name="thinmaps",
    help="Runs trained convolutional networks in a fraction of the memory.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ThinFile = Annotated[str, typer.Argument(metavar="MODEL.thin", show_default=False)]
OnnxFile = Annotated[str, typer.Argument(metavar="MODEL.onnx", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Threads = Annotated[
    int, typer.Option("--threads", min=1, max=256, help="Of the engine; at most one per core.")
]
Calibrate = Annotated[
    str | None,
    typer.Option(metavar="PICTURES", help="A folder, .npy or .npz. Not needed for QDQ files."),
]
Mean = Annotated[str | None, typer.Option(help="Per channel of value/255, a,b,c.")]
Std = Annotated[str | None, typer.Option(help="Per channel of value/255, a,b,c.")]
Order = Annotated[options.Order | None, typer.Option(help="Channels as trained.")]
Fit = Annotated[options.Fit | None, typer.Option(help="Pictures of other sizes.")]
Size = Annotated[str | None, typer.Option(metavar="HxW", help="Of the input.")]
Anchors = Annotated[
    str | None, typer.Option(metavar="FILE.cfg", help="Of a detector: Darknet's configuration.")
]
Output = Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where it goes.")]


@app.callback(invoke_without_command=True)
def common(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Runs trained convolutional networks in a fraction of the memory."""
    if version:
        from importlib.metadata import version as version_of

        print(f"thinmaps {version_of('thinmaps')}")
        raise typer.Exit


@app.command()
def compress(
    model: OnnxFile,
    output: Output,
    calibrate: Calibrate = None,
    mean: Mean = None,
    std: Std = None,
    order: Order = None,
    fit: Fit = None,
    size: Size = None,
    codec: Annotated[
        list[str] | None,
        typer.Option(metavar="[EDGE=]ID[:OPTIONS]", help="Such as cat=narrow:4, or zero_bitmap."),
    ] = None,
    schedule: Annotated[Literal["mixed", "stream", "layer"], typer.Option()] = "mixed",
    stripe: Annotated[int, typer.Option(min=1, help="The least rows of a step.")] = 1,
    arena: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES|smallest",
            help="A budget for the fastest plan that fits, such as 64KiB, or the smallest arena.",
        ),
    ] = None,
    machine: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="Whose speed is assumed: portable, avx2, avx512, amx, here (measured), a file.",
        ),
    ] = "avx512",
    max_drop: Annotated[
        float | None, typer.Option(help="Points that may be lost; codecs are then chosen.")
    ] = None,
    traffic: Annotated[
        str | None, typer.Option(metavar="BYTES", help="A budget for stored bytes moved.")
    ] = None,
    winograd: Annotated[
        str | None,
        typer.Option(
            metavar="exact|ERROR",
            help="For 3x3 convolutions, where it is faster: the same bytes in more memory, or "
            "scaled tiles of at most that relative error.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Of the calibration pictures: CSV, VOC folder or folder of masks."),
    ] = None,
    anchors: Anchors = None,
    names: Annotated[str | None, typer.Option(help="Class names, one per line.")] = None,
    json: Json = False,
) -> None:
    """Make a .thin file of an ONNX network, float or QDQ."""
    from thinmaps.compression import compress as compress_network
    from thinmaps.measure.labels import read_names

    check_writable(Path(output))
    with LateBar() as bar:
        compressed = compress_network(
            model,
            calibrate,
            preprocessing=options.preprocessing(mean, std, order, fit),
            labels=labels,
            anchors=anchors,
            names=read_names(names) if names else (),
            progress=bar,
            size=options.size(size),
            schedule=schedule,
            stripe_rows=stripe,
            arena_bytes=options.arena(arena),
            machine=machine,
            traffic_bytes=options.byte_count(traffic, "--traffic"),
            max_drop=max_drop,
            codec=options.codec(codec or []),
            winograd=options.winograd(winograd),
        )
        save(compressed, output)
    show_report(compressed, json)


@app.command()
def run(
    model: ThinFile,
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURE...", show_default=False)],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="The output: a picture, or .npz."),
    ] = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Answer pictures: the five best classes, or another picture."""
    from thinmaps.measure.prediction import predict_all

    with LateBar() as bar:
        found = predict_all(load(model), pictures, output=output, threads=threads, progress=bar)
    show_predictions(found, json)


@app.command()
def show(
    model: ThinFile,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write a page.")] = None,
    json: Json = False,
) -> None:
    """Say where every byte goes."""
    loaded = load(model)
    if html is not None:
        from thinmaps.measure.html import write_page

        write_page(loaded, html, title=Path(model).stem)
        say(f"wrote {html}")
    show_report(loaded, json)


@app.command()
def profile(
    model: OnnxFile,
    images: Annotated[str | None, typer.Option(help="A folder of pictures, .npy or .npz.")] = None,
    mean: Mean = None,
    std: Std = None,
    order: Order = None,
    fit: Fit = None,
    size: Size = None,
    json: Json = False,
) -> None:
    """Say what the maps of a network cost, and how well each would compress."""
    from thinmaps.profiling import profile as profile_network

    with LateBar() as bar:
        found = profile_network(
            model,
            images,
            preprocessing=options.preprocessing(mean, std, order, fit),
            size=options.size(size),
            progress=bar,
        )
    show_map_profile(found, json)


@app.command(name="eval")
def evaluate(
    model: ThinFile,
    images: Annotated[str, typer.Option(help="A folder of pictures, .npy or .npz.")],
    labels: Annotated[
        str | None,
        typer.Option(help="CSV with filename,class_index, VOC folder or folder of masks."),
    ] = None,
    task: Annotated[Literal["classify", "detect", "segment"], typer.Option()] = "classify",
    reference: Annotated[
        str | None, typer.Option("--float", metavar="MODEL.onnx", help="To compare with.")
    ] = None,
    anchors: Anchors = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Measure accuracy, and agreement with the float network."""
    from thinmaps.measure.evaluate import evaluate as evaluate_model

    with LateBar() as bar:
        found = evaluate_model(
            load(model),
            images,
            labels,
            task=task,
            reference=reference,
            anchors=anchors,
            threads=threads,
            progress=bar,
        )
    show_evaluation(found, json)


@app.command()
def bench(
    model: ThinFile,
    against: Annotated[
        Literal["onnxruntime", "openvino"], typer.Option(help="The peer.")
    ] = "onnxruntime",
    images: Annotated[str | None, typer.Option(help="Pictures to run on.")] = None,
    reference: Annotated[
        str | None, typer.Option("--float", metavar="MODEL.onnx", help="For rows in float32.")
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option("--threads", min=1, max=256, help="Of every side; again for more. [1, 2]"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=9, help="Interleaved rounds.")] = 15,
    profile: Annotated[
        bool, typer.Option("--profile", help="Say where our time goes instead; needs no peer.")
    ] = False,
    json: Json = False,
) -> None:
    """Compare time and memory with a peer, or say which nodes the time goes to."""
    if profile:
        from thinmaps.measure.profile import profile as profile_model

        with LateBar() as bar:
            profiled = profile_model(load(model), images, rounds=rounds, progress=bar)
        show_profile(profiled, json)
        return
    from thinmaps.measure.bench import bench as bench_model

    with LateBar() as bar:
        found = bench_model(
            load(model),
            images,
            against=against,
            reference=reference,
            threads=threads or (1, 2),
            rounds=rounds,
            progress=bar,
        )
    show_comparison(found, json)


@app.command()
def verify(
    model: ThinFile,
    onnx: Annotated[str, typer.Argument(metavar="MODEL.onnx", show_default=False)],
    picture: Annotated[str | None, typer.Option(help="To run on; noise if not given.")] = None,
    json: Json = False,
) -> None:
    """Print 0 if an ONNX file of integers makes the same maps, else the first that differs."""
    from thinmaps.measure.verification import verify as verify_model

    found = verify_model(load(model), onnx, picture)
    show_verification(found, json)
    if found.difference is not None:
        raise typer.Exit(1)


@app.command()
def export(
    model: ThinFile,
    onnx: Annotated[str, typer.Option(metavar="FILE.onnx", help="Where it goes.")],
    json: Json = False,
) -> None:
    """Write standard ONNX QDQ that any runtime reproduces."""
    from thinmaps.export.onnx_qdq import export as export_model

    export_model(load(model), onnx)
    say(f"wrote {onnx}")
    if json:
        print_json({"onnx": onnx, "bytes": Path(onnx).stat().st_size})


@app.command()
def learn(
    config: Annotated[str, typer.Argument(metavar="CONFIG.toml", show_default=False)],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    json: Json = False,
) -> None:
    """Train a network to live with small maps, as a file says; needs PyTorch."""
    from thinmaps.learn.config import read_config
    from thinmaps.learn.job import learn as learn_as_asked

    found = learn_as_asked(read_config(config), resume=resume)
    if found is not None:
        show_learning(found, json)


@app.command()
def winograd(
    outputs: Annotated[int, typer.Option(metavar="M", help="Per tile and dimension.")] = 4,
    taps: Annotated[int, typer.Option(metavar="R", help="Of the filter.")] = 3,
    polynomials: Annotated[
        str | None,
        typer.Option(help='Coprime, degrees adding up to M + R - 2: "x, x-1, x+1, x^2+1".'),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Find the sets that none beats in saving and error.")
    ] = False,
    number_format: Annotated[
        Literal["float16", "float32", "float64"], typer.Option(help="Of --search.")
    ] = "float32",
    channels: Annotated[
        int, typer.Option(metavar="C", help="Of --search: that share a transform.")
    ] = 64,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Transforms in two dimensions, quadratics in pairs.")
    ] = False,
    python: Annotated[bool, typer.Option("--python", help="Transforms as NumPy.")] = False,
    c: Annotated[bool, typer.Option("--c", help="Transforms as C++ templates.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Transforms as equations.")] = False,
    json: Json = False,
) -> None:
    """Derive a fast convolution from polynomials: matrices, cost, error, code."""
    from thinmaps import winograd as derived
    from thinmaps.winograd import description, pareto

    codes = {"--python": python, "--c": c, "--latex": latex}
    options.at_most_one({**codes, "--json": json})
    if search:
        options.at_most_one({**codes, "--polynomials": bool(polynomials), "--search": search})
        machine = pareto.Machine(channels, channels)
        with LateBar() as bar:
            front = pareto.search(outputs, taps, number_format, machine, progress=bar)
        show_derived(front, json)
        return
    algorithm = derived.derive(outputs, taps, polynomials)
    if python:
        print(derived.python(algorithm, pairs), end="")
    elif c:
        print(derived.cpp(algorithm, f"F{outputs}x{taps}", pairs), end="")
    elif latex:
        print(derived.latex(algorithm, pairs), end="")
    else:
        show_derived(description.describe(algorithm), json)


@app.command()
def demo(
    output: Annotated[str, typer.Option("--output", "-o", metavar="FOLDER")] = "demo-out",
    json: Json = False,
) -> None:
    """Run the whole main job on data that ships with the package."""
    from rich.console import Console

    from thinmaps.demo.main import run as run_demo

    page = run_demo(Path(output), Console(stderr=json))
    if json:
        print_json({"report": str(page)})
