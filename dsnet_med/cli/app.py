"""The commands of `dsnet-med` and their options; what is done lies in modules that are imported when needed."""

import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import dsnet_med
from dsnet_med.cli import planning, steps
from dsnet_med.cli.options import AsJson, Out, RequireGeometry, Workers, folder
from dsnet_med.errors import InputError
from dsnet_med.files import locked

app = typer.Typer(
    help="Do attention plug-ins help organ segmentation? Prepare volumes, train, segment, score.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a value of the configuration, id=value; may be repeated."),
]

SelectOn = Annotated[
    str | None,
    typer.Option(
        help="Pick the checkpoint on `val` (training patients; default) or `test`, as the reference did."
    ),
]
PlugIn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.py:CLASS",
        help="A plug-in to put into the network: one of ours (SE, ...) or a class in a Python file, which is "
        "executed and copied into the run.",
    ),
]
PlaceOfPlugIn = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN",
        help="The submodules that --plugin follows, a pattern of names; layer4.*.act2 unless given.",
    ),
]
Models = Annotated[
    list[Path],
    typer.Option(
        "--model", help="A run folder, a bundle, a zip of one, or hf://OWNER/NAME; several are an ensemble."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
Batch = Annotated[int | None, typer.Option(help="Slices at a time; what fits, if not given.", min=1)]
Tta = Annotated[bool, typer.Option("--tta", help="Average over mirror images.")]
Precision = Annotated[str, typer.Option(help="float32 or bfloat16 (autocast).")]
Compiled = Annotated[
    bool, typer.Option("--compile", help="Compile the network: pays on a GPU and tens of volumes.")
]
Trust = Annotated[bool, typer.Option("--trust", help="Let a model folder run code of its own.")]
KeepLargest = Annotated[
    str, typer.Option(help="Organs of which only the largest piece stays: names with commas, or all.")
]
FillHoles = Annotated[str, typer.Option(help="Organs whose holes are filled: names with commas, or all.")]
RemoveSmaller = Annotated[float, typer.Option(help="Drop pieces of organs below this many millilitres.")]


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[bool, typer.Option("--version", help="Print the version, and what it runs on.")] = False,
) -> None:
    if version:
        from dsnet_med.cli.environment import kernel

        typer.echo(f"dsnet-med {dsnet_med.__version__}\nPython {platform.python_version()}, {kernel()}")
        raise typer.Exit


@app.command()
def methods(as_json: AsJson = False) -> None:
    """List the methods that can be trained."""
    from dsnet_med.cli import tables

    tables.methods(as_json)


@app.command()
def datasets(as_json: AsJson = False) -> None:
    """List the data sets that have a recipe."""
    from dsnet_med.cli import tables

    tables.datasets(as_json)


app.command()(steps.phantom)
app.command()(steps.preprocess)
app.command()(steps.check)
app.command()(planning.plan)


@app.command()
def train(
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the run; afterwards a MONAI bundle.", callback=folder)
    ],
    method: Annotated[
        str | None,
        typer.Option(help="A method (see `methods`), or a row's own file, which may run code."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A store, or a data set of natural images.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, order and augmentation; 0 unless given.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Optimiser steps.", min=1)] = None,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(help="Processes that train together, one for each GPU.", min=1)] = 1,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    compiled: Compiled = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bits on a GPU, too.")
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Write where the time goes: profile/.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Go on with a run that you did not make yourself: its configs are code."),
    ] = False,
    logger: Annotated[
        str | None, typer.Option(help="none, tensorboard, wandb, mlflow, or several with commas.")
    ] = None,
    select_on: SelectOn = None,
    fold: Annotated[
        int | None, typer.Option(help="Validate on this fold of the store's, from 0, and train on the others.")
    ] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Start from ImageNet weights.")] = False,
    plugin: PlugIn = None,
    at: PlaceOfPlugIn = None,
    overlay: Annotated[
        list[Path] | None, typer.Option(help="A file over the configuration, which may run code; repeatable.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Train one method on one store. The same seed gives the same bits, killed and resumed or not."""
    from dsnet_med.cli import training

    if plugin == "" or at == "":
        raise InputError("got an empty --plugin or --at: give a name, or leave the option out")
    if at and not plugin:
        raise InputError(f"got --at {at} without --plugin: name what to put there, for example --plugin SE")
    given: dict[str, Any] = {"seed": seed, "iterations": iterations, "select_on": select_on}
    given |= {"fold": fold, "precision": precision, "loggers": logger.split(",") if logger else None}
    flags = {"pretrained": pretrained, "compile": compiled, "deterministic": deterministic, "profile": profile}
    given |= {name: True for name, value in flags.items() if value}
    request = training.Request(method, data, given, settings or [], overlay or [], plugin, at)
    if resume:
        training.resume(out, request, device=device, devices=devices, trust=trust)
    else:
        training.train(out, request, device=device, devices=devices)


@app.command()
def infer(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Volume files, DICOM folders or files, folders of any of them, patterns."),
    ],
    model: Models,
    out: Out,
    device: Device = "auto",
    batch: Batch = None,
    tta: Tta = False,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="nifti, seg.nrrd, dicom-seg, dicom-labelmap, rtstruct, or several with commas; itk-snap adds "
            "its label file.",
        ),
    ] = "nifti",
    precision: Precision = "float32",
    compiled: Compiled = False,
    trust: Trust = False,
    volume_index: Annotated[
        int | None, typer.Option(help="Which volume of a 4-D file or series, from 0.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="Which DICOM series, by number or UID; of channels: t1=2,flair=5.")
    ] = None,
    keep_largest: KeepLargest = "",
    fill_holes: FillHoles = "",
    remove_smaller: RemoveSmaller = 0.0,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write CASE.npz: float16, every class.")
    ] = False,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Write statistics.csv: ml and mean HU per organ.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Write CASE.png: twelve slices with the mask.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make finished masks anew.")] = False,
    regrid: Annotated[
        bool,
        typer.Option(
            "--regrid",
            help="Write CASE.regridded.nii.gz, too: on an orthogonal grid, for ITK, which takes no other.",
        ),
    ] = False,
    require_geometry: RequireGeometry = False,
) -> None:
    """Segment volumes; each mask lies in its input's own grid, and finished ones are kept."""
    from dsnet_med.cli import inferring

    inferring.infer(
        model,
        inputs,
        out,
        inferring.ModelOptions(
            device, batch, tta, precision, compiled, trust, keep_largest, fill_holes, remove_smaller
        ),
        inferring.CaseOptions(
            formats,
            probabilities,
            statistics,
            preview,
            overwrite,
            volume_index,
            series,
            regrid,
            require_geometry,
        ),
    )


@app.command()
def evaluate(
    prediction: Annotated[
        list[Path], typer.Option(help="A folder of label maps to score; two or more are compared.")
    ],
    reference: Annotated[Path, typer.Option(help="Label maps to score them against.")],
    labels: Annotated[str, typer.Option(help="A recipe, or a labels.json of values and names, or of regions.")],
    out: Out,
    protocol: Annotated[list[str] | None, typer.Option(help="strict, transunet, ...; may be repeated.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Image volumes to show under the masks in the report.")
    ] = None,
    workers: Workers = 2,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler to use instead of local processes.")
    ] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Bring predictions onto their references' grids.")
    ] = False,
    drop_outside: Annotated[
        bool, typer.Option("--drop-outside", help="With --resample: let what lies outside the grid go.")
    ] = False,
    nsd_tolerance: Annotated[float, typer.Option(help="Millimetres within which surfaces agree.")] = 1.0,
    missing: Annotated[
        str, typer.Option(help="References without a prediction: refuse, zero (all missed) or ignore.")
    ] = "refuse",
    cases: Annotated[
        Path | None,
        typer.Option(help="The cases that count: one a line, or a store's manifest.json (its test cases)."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that lie in --out.")] = False,
    window: Annotated[
        str | None,
        typer.Option(help="Intensities that the report shows black and white: -125,275; else the recipe's."),
    ] = None,
    page_mb: Annotated[
        float, typer.Option(help="Megabytes that a report's pictures may take; 0 leaves out the slices.", min=0)
    ] = 16.0,
    channel: Annotated[
        int, typer.Option(help="Of --images named CASE_0000, CASE_0001, ...: the one that is shown.", min=0)
    ] = 0,
) -> None:
    """Score label maps: Dice and HD95 per organ, as cases.csv, summary.json and report.html."""
    with locked(out, "evaluates into"):  # first: what it imports takes longer than small folders do
        from dsnet_med.cli import scoring
        from dsnet_med.evaluate.score_folders import missing_rule

        options = scoring.Options(
            protocols=tuple(protocol or ["strict"]),
            workers=workers,
            scheduler=scheduler,
            resample=resample,
            drop_outside=drop_outside,
            nsd_tolerance_mm=nsd_tolerance,
            missing=missing_rule(missing),
        )
        scoring.evaluate(
            prediction,
            reference,
            labels,
            out,
            images=images,
            options=options,
            cases=cases,
            overwrite=overwrite,
            looks=scoring.Looks(None if window is None else scoring.parsed_window(window), page_mb),
            channel=channel,
        )


@app.command()
def compare(
    out: Out,
    methods: Annotated[
        str,
        typer.Option(
            help="The arms, with commas: rows, rows' files, row+Plugin@PATTERN (fcn+SE@layer4.*.act2, "
            "fcn+mine.py:Mine@...), placebos in the same way. Files are executed."
        ),
    ] = "",
    data: Annotated[Path | None, typer.Option(help="The store that all arms train on.")] = None,
    seeds: Annotated[str, typer.Option(help="The seeds that every arm is trained with: 0,1,2.")] = "",
    baseline: Annotated[
        str | None, typer.Option(help="The arm that the others are compared with; the first unless given.")
    ] = None,
    placebos: Annotated[
        bool, typer.Option("--placebos", help="Add, for every plug-in arm, its placebos at its place.")
    ] = False,
    equal: Annotated[
        bool, typer.Option("--equal", help="Give every arm the baseline's optimiser and schedule.")
    ] = False,
    folds: Annotated[
        int, typer.Option(help="Cross-validate: so many folds of the training and validation subjects.", min=0)
    ] = 0,
    margin: Annotated[
        float | None, typer.Option(help="The largest difference that makes no difference to you; 0.01 Dice.")
    ] = None,
    primary: Annotated[
        str | None, typer.Option(help="The measure that decides: dice, nsd, hd95_mm, dice_transunet ...")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Optimiser steps of every run.", min=1)] = None,
    settings: Settings = None,
    device: Device = "auto",
    jobs: Annotated[int | None, typer.Option(help="Runs at a time; threads are shared out.", min=1)] = None,
    per_gpu: Annotated[int, typer.Option(help="Runs at a time on each GPU.", min=1)] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler whose workers run the cells.")
    ] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only every Nth run, for job arrays.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs, their cost and about how long it takes.")
    ] = False,
    scores: Annotated[
        Path | None,
        typer.Option(help="Analyse scores made anywhere: a CSV file, method,seed,case,label,dice."),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Go on with a trial that you did not make yourself: its files are code."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The trial: do these plug-ins help? Every arm with every seed, scored, tested and reported."""
    from dsnet_med.cli import comparing

    request = comparing.Request(
        methods,
        data,
        seeds,
        baseline,
        placebos,
        equal,
        folds,
        margin,
        primary,
        iterations,
        tuple(settings or ()),
    )
    means = comparing.Means(jobs, per_gpu, device, scheduler, shard, trust)
    if scores is not None:
        comparing.analyse_scores(scores, out, request, means, dry_run=dry_run, as_json=as_json)
    else:
        comparing.compare(out, request, means, dry_run=dry_run, as_json=as_json)


@app.command()
def explain(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Volume files, DICOM folders or files, folders of any of them, patterns."),
    ],
    model: Annotated[
        list[Path],
        typer.Option("--model", help="A run folder, a bundle or a zip of one; several come side by side."),
    ],
    out: Out,
    reference: Annotated[
        Path | None, typer.Option(help="Label maps: without them the masks alone are compared.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="What the references' values mean, a recipe or a labels.json; else as the run has it."
        ),
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(help="The cases that count: one a line, or a store's manifest.json (its test cases)."),
    ] = None,
    interventions: Annotated[
        str,
        typer.Option(
            help="What plug-ins are replaced by, with commas: identity, mean (their own, a constant), other "
            "(another image's gate), shuffled; none for none."
        ),
    ] = "identity,mean,other,shuffled",
    each: Annotated[
        bool, typer.Option("--each/--together", help="Replace each plug-in alone, too, or only all together.")
    ] = True,
    shuffles: Annotated[int, typer.Option(help="How often gates are shuffled.", min=1)] = 4,
    organ: Annotated[
        str | None, typer.Option(help="Show by Grad-CAM and occlusion what this organ was found by.")
    ] = None,
    pictures: Annotated[int, typer.Option(help="Slices whose maps are shown.", min=0)] = 2,
    save_maps: Annotated[
        bool, typer.Option("--save-maps", help="Write every map as NIfTI, on its image's grid.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of what is shuffled and drawn.")] = 0,
    device: Device = "auto",
    batch: Batch = None,
    precision: Precision = "float32",
    trust: Trust = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that lie in --out.")] = False,
    as_json: AsJson = False,
) -> None:
    """What the plug-ins of a network compute, and what becomes of the masks when they are replaced."""
    from dsnet_med.cli import explaining

    kinds = [] if interventions == "none" else [part.strip() for part in interventions.split(",")]
    explaining.explain(
        model,
        inputs,
        out,
        explaining.Options(
            kinds,
            each,
            shuffles,
            organ,
            pictures,
            save_maps,
            seed,
            device,
            batch,
            precision,
            trust,
            overwrite,
        ),
        reference=reference,
        labels=labels,
        cases=cases,
        as_json=as_json,
    )


@app.command()
def export(
    runs: Annotated[
        list[Path], typer.Argument(help="The folder of a run; several are exported as one ensemble.")
    ],
    out: Out,
    formats: Annotated[
        str | None,
        typer.Option(help="Beside the bundle itself: onnx, pt2, torchscript, with commas; all unless given."),
    ] = None,
    author: Annotated[str, typer.Option(help="Whose model it is.")] = "",
    licence: Annotated[
        str, typer.Option("--licence", "--license", help="Of the weights: a name, or a file with its text.")
    ] = "Apache-2.0",
    data_source: Annotated[
        str, typer.Option(help="Where the data are from, where the recipe does not say it.")
    ] = "",
    scores: Annotated[
        Path | None, typer.Option(help="A summary.json of `evaluate`, whose scores go into the model card.")
    ] = None,
    push_to: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload the bundle to the Hugging Face Hub.")
    ] = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """A run as a bundle for others: ONNX, .pt2, TorchScript, a model card, a certificate that all are equal."""
    from dsnet_med.cli import exporting

    exporting.export(
        runs,
        out,
        formats=formats,
        author=author,
        licence=licence,
        data_source=data_source,
        scores=scores,
        push_to=push_to,
        trust=trust,
        as_json=as_json,
    )


@app.command()
def verify(
    path: Annotated[
        Path,
        typer.Argument(
            help="A summary.json or comparison.json of `evaluate`, a folder of `compare` or `explain`, a "
            "bundle of `export`."
        ),
    ],
    prediction: Annotated[Path | None, typer.Option(help="Where the predictions lie now.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Where the references lie now.")] = None,
    images: Annotated[Path | None, typer.Option(help="Where the images of the report lie now.")] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="Of a trial: score the masks of all its runs again, too.")
    ] = False,
    workers: Workers = 2,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Of a bundle that you did not export yourself: its configs are code."),
    ] = False,
) -> None:
    """Score, analyse, summarise or compare again what a command has written: does it still hold?"""
    from dsnet_med.cli import analysing, exporting, scoring
    from dsnet_med.explain.verify import explain_folder
    from dsnet_med.inference.hub import is_reference

    if folder := exporting.bundle_folder(path):
        if prediction or reference or images or masks:
            raise InputError(
                "a bundle is compared by itself; leave out --prediction, --reference, --images, --masks"
            )
        exporting.verify(folder, trust=trust, of_hub=is_reference(path))
    elif folder := analysing.trial_folder(path):
        if prediction or reference or images:
            raise InputError("a trial's files lie in its folder; leave out --prediction, --reference, --images")
        analysing.verify_trial(folder, masks=masks, workers=workers)
    elif folder := explain_folder(path):
        if prediction or reference or images or masks:
            raise InputError(
                "what explain wrote lies in one folder; leave out --prediction, --reference, --images, --masks"
            )
        scoring.verify_explained(folder)
    elif masks:
        raise InputError(f"--masks is for the folder of a trial; in {path} is no results.json")
    else:
        scoring.verify(path, prediction=prediction, reference=reference, images=images, workers=workers)


@app.command("import-checkpoint")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A checkpoint of the published code, .pth or .safetensors.")],
    method: Annotated[str, typer.Option(help="The method it is of (see `methods`).")],
    num_classes: Annotated[int, typer.Option(help="Its classes, background included.", min=1)],
    out: Annotated[Path, typer.Option("--out", help="File to write, .safetensors.")],
    in_channels: Annotated[int, typer.Option(help="Its input channels.", min=1)] = 3,
) -> None:
    """Turn a checkpoint of the published code into weights for `build_network`; no code in it is run."""
    from dsnet_med.cli import importing

    importing.import_checkpoint(file, out, method=method, num_classes=num_classes, in_channels=in_channels)


@app.command()
def quickstart(
    out: Out = Path("quickstart"),
    iterations: Annotated[
        int | None, typer.Option(help="Optimiser steps: fewer are quicker and segment worse.", min=2)
    ] = None,
) -> None:
    """From nothing to a scored segmentation of synthetic volumes, in about three minutes."""
    from dsnet_med.cli import quickstart

    quickstart.quickstart(out, iterations or quickstart.ITERATIONS)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def bundle(context: typer.Context) -> None:
    """What `python -m monai.bundle` does: `bundle run training --config_file ... [--trust]`."""
    from dsnet_med.cli.bundle import bundle_command, usage

    if not context.args or context.args[0] in ("-h", "--help"):
        sys.stdout.write(usage("dsnet-med"))
        return
    bundle_command(context.args)


@app.command()
def serve(
    model: Models,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets everyone in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8000,
    device: Device = "auto",
    batch: Batch = None,
    tta: Tta = False,
    precision: Precision = "float32",
    compiled: Compiled = False,
    trust: Trust = False,
    max_mb: Annotated[int, typer.Option(help="Largest upload in MB (2^20 bytes).", min=1)] = 1024,
    queue: Annotated[int, typer.Option(help="Requests that may upload, wait or work.", min=1)] = 32,
    token_file: Annotated[
        Path | None, typer.Option(help="Ask for the token in this file: Authorization: Bearer TOKEN.")
    ] = None,
    keep_largest: KeepLargest = "",
    fill_holes: FillHoles = "",
    remove_smaller: RemoveSmaller = 0.0,
) -> None:
    """Segment volumes sent over HTTP: a page at /, POST /segment, GET /health. For this machine alone."""
    from dsnet_med.cli import inferring, serving

    serving.serve(
        model,
        inferring.ModelOptions(
            device, batch, tta, precision, compiled, trust, keep_largest, fill_holes, remove_smaller
        ),
        host=host,
        port=port,
        max_mb=max_mb,
        queue=queue,
        token_file=token_file,
    )
