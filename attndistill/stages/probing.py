"""Stage 5: features once, then every probe, for a teacher, a baseline or a student."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attndistill.core.artifacts import digest_of, write_json
from attndistill.core.measurement import summarise
from attndistill.core.progress import progress
from attndistill.data.store import ImageSet, read_manifest
from attndistill.evaluations import EVALUATIONS
from attndistill.evaluations.classifiers import ProbeResult
from attndistill.models.storage import load_model
from attndistill.models.vit import count_parameters
from attndistill.stages.context import Context
from attndistill.stages.features import keep_labels, labelled_images, probe_data
from attndistill.stages.linear import linear_probe


def probe(context: Context) -> None:
    """Write results/<experiment>/probes/<item>.json: top-1 and top-5 of every probe over seeds, with protocols.

    k-NN and logistic regression judge the same features, computed once; a linear probe where one is asked for.
    """
    images, test = context.images("train"), context.images("test")
    manifest = read_manifest(context.layout.data)
    options = context.config.probe
    found: dict[str, list[ProbeResult]] = {"knn": [], "logistic": []}
    parameters, layer, chosen = 0, 0, labelled_images(context, images)
    with progress(f"probe {context.item}", len(context.seeds), "models") as update:
        for done, seed in enumerate(context.seeds, start=1):
            backbone, projector = load_model(context.layout.weights(context.item, seed))
            parameters, layer = count_parameters(backbone), options.projector_layer if projector else 0
            data = probe_data(context, backbone, images, test, projector, layer)
            data = data if chosen is None else keep_labels(context, data, chosen)
            for name, results in found.items():
                choice = getattr(options, name)
                results.append(EVALUATIONS.bind(choice.name, choice.options())(data))
                context.journal.metrics({f"{name}_top1": results[-1].top1, f"{name}_top5": results[-1].top5}, step=seed)
            update(done)
    trained = [linear_probe(context, seed, images, test, chosen) for seed in context.seeds if options.linear]
    for seed, (result, _) in zip(context.seeds, trained, strict=False):
        found.setdefault("linear", []).append(result)
        context.journal.metrics({"linear_top1": result.top1, "linear_top5": result.top5}, step=seed)
    value = {
        "model": context.item,
        "parameters": parameters,
        "feature": f"cls_token after projector layer {layer}" if layer else "cls_token before the projector",
        "class_list_sha256": manifest["class_list_sha256"],
        "data_digest": manifest["digest"],
        "probes": {
            name: _figures(results, context.seeds, _labels(context, images, chosen)) for name, results in found.items()
        },
    }
    path = context.layout.result("probes", f"{context.item}.json")
    write_json(path, value)
    context.journal.artifact(path, folder="results")
    for _, checkpoint in trained:
        checkpoint.remove()


def _labels(context: Context, images: ImageSet, chosen: NDArray[np.int64] | None) -> str:
    """What is added to a protocol's name where not every training image kept its label."""
    options = context.config.probe.labels
    if chosen is None:
        return ""
    if options.fraction is not None:
        return f", {100 * options.fraction:g} % of labels (seed {options.seed})"
    return f", {len(chosen)} labels of list {digest_of([images.names[index] for index in chosen])[:12]}"


def _figures(results: list[ProbeResult], seeds: tuple[int, ...], labels: str) -> dict[str, Any]:
    protocol, order = results[0].protocol + labels, list(seeds)
    assert {result.protocol for result in results} == {results[0].protocol}
    return {
        "top1": summarise([result.top1 for result in results], order, protocol),
        "top5": summarise([result.top5 for result in results], order, protocol),
        "selected": {name: [result.chosen[name] for result in results] for name in results[0].chosen},
        "sweep": {
            key: summarise([result.sweep[key] for result in results], order, protocol) for key in results[0].sweep
        },
    }
