"""`spillway catalog`: what Spillway knows of models, GPUs and providers, and what fits where. Needs no cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from spillway.catalog import Catalog, ModelFacts

app = typer.Typer(
    no_args_is_help=True,
    help="What Spillway knows beforehand: models, GPUs, prices of providers; and which model fits on which GPUs. "
    "Needs no cluster.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Overlay = Annotated[
    Path | None,
    typer.Option(
        help="A ConfigMap manifest (as you would apply it as spillway-catalog) to lay over the catalog, to try it out.",
        exists=True,
        dir_okay=False,
    ),
]


@app.command()
def models(
    model: Annotated[str | None, typer.Argument(help="One model, in full. Default: a table of all.")] = None,
    as_json: Json = False,
    overlay: Overlay = None,
) -> None:
    """List the models: parameters, context, KV cache, checkpoints, least engine versions.

    Example: `spillway catalog models deepseek-r1`
    """
    from spillway.cli import catalog_tables

    catalog = _catalog(overlay)
    chosen = {model: _known(model, catalog)} if model else dict(catalog.models)
    if as_json:
        catalog_tables.print_json({name: one.model_dump(mode="json") for name, one in chosen.items()})
    elif model:
        catalog_tables.model(chosen[model])
    else:
        catalog_tables.models(list(chosen.values()))


@app.command()
def gpus(as_json: Json = False, overlay: Overlay = None) -> None:
    """List the GPUs: memory, compute capability, GPUs of a node, bandwidth, FLOPS, labels of their nodes.

    Example: `spillway catalog gpus`
    """
    from spillway.cli import catalog_tables

    catalog = _catalog(overlay)
    if as_json:
        catalog_tables.print_json({name: one.model_dump(mode="json") for name, one in catalog.gpus.items()})
    else:
        catalog_tables.gpus(list(catalog.gpus.values()))


@app.command()
def providers(
    provider: Annotated[str | None, typer.Argument(help="One provider. Default: all.")] = None,
    as_json: Json = False,
    overlay: Overlay = None,
) -> None:
    """List external providers: addresses and dated prices, in US dollars per million tokens.

    Example: `spillway catalog providers zai`
    """
    from spillway.cli import catalog_tables

    catalog = _catalog(overlay)
    if provider is not None and provider not in catalog.providers:
        _fail(f"provider {provider!r} is not in the catalog: use one of {', '.join(catalog.providers)}")
    chosen = [one for name, one in catalog.providers.items() if provider in (None, name)]
    if as_json:
        catalog_tables.print_json({one.name: one.model_dump(mode="json") for one in chosen})
    else:
        catalog_tables.providers(chosen)


@app.command()
def fit(
    model: Annotated[str, typer.Argument(help="Model of the catalog.")],
    gpu: Annotated[
        list[str] | None, typer.Option(help="Only this GPU (catalog name or product label); may be repeated.")
    ] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Only NVFP4, FP8 or BF16; may be repeated.")] = None,
    engine: Annotated[str, typer.Option(help="vLLM or SGLang.")] = "vLLM",
    engine_version: Annotated[str | None, typer.Option(help="Version of the engine. Default: the catalog's.")] = None,
    max_model_len: Annotated[
        int | None, typer.Option(help="Longest context in tokens. Default: what the model supports.", min=1)
    ] = None,
    parallelism: Annotated[
        str | None, typer.Option(help="Try this one, such as TP8, TP8+EP, DP8+EP, 'TP16+EP on 2 nodes'.")
    ] = None,
    redundant_experts: Annotated[int, typer.Option(help="Redundant experts of a replica (EPLB).", min=0)] = 0,
    as_json: Json = False,
    overlay: Overlay = None,
) -> None:
    """Tell on which GPUs a model fits, how many a replica takes and how it is spread; or why not, with the arithmetic.

    Example: `spillway catalog fit deepseek-r1 --gpu H100 --gpu B200`
    """
    from spillway.catalog import PRECISIONS, Parallelism
    from spillway.cli import catalog_fit, catalog_tables

    catalog = _catalog(overlay)
    facts = _known(model, catalog)
    unknown = sorted(set(precision or ()) - set(PRECISIONS))
    if unknown:
        _fail(f"--precision is {unknown[0]!r}: use one of {', '.join(PRECISIONS)}")
    chosen = []
    for product in gpu or catalog.gpus:
        found = catalog.gpu(product)
        if found is None:
            _fail(f"--gpu is {product!r}, which is not in the catalog: use one of {', '.join(catalog.gpus)}")
        chosen.append(found)
    engine_name = next((name for name in catalog.engines if name == engine), None)
    if engine_name is None:
        _fail(f"--engine is {engine!r}: use one of {', '.join(catalog.engines)}")
    try:
        spread = Parallelism.parse(parallelism) if parallelism else None
    except ValueError as error:
        _fail(f"--parallelism: {error}")
    question = catalog_fit.Question(
        facts,
        tuple(chosen),
        tuple(one for one in PRECISIONS if not precision or one in precision),
        engine_name,
        engine_version or catalog.engines[engine_name].version,
        max_model_len,
        spread,
        redundant_experts,
    )
    answers = catalog_fit.answers(question, catalog)
    if as_json:
        catalog_tables.print_json([answer.as_json() for answer in answers])
    else:
        catalog_fit.tell(question, answers)


def _catalog(overlay: Path | None) -> Catalog:
    import yaml

    from spillway.catalog import CatalogError, load, overlaid

    if overlay is None:
        return load()
    try:
        manifest = yaml.safe_load(overlay.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        _fail(f"--overlay {overlay}: {error}")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("data"), dict):
        _fail(f"--overlay {overlay} is no ConfigMap: it has no data with keys such as models.yaml")
    try:
        return overlaid(manifest["data"])
    except CatalogError as error:
        _fail("\n          ".join(error.problems))


def _known(model: str, catalog: Catalog) -> ModelFacts:
    if model not in catalog.models:
        _fail(f"model {model!r} is not in the catalog: use one of {', '.join(catalog.models)}")
    return catalog.models[model]


def _fail(words: str) -> NoReturn:
    typer.echo(f"spillway: {words}", err=True)
    raise typer.Exit(2)
