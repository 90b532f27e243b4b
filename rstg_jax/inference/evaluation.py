"""Evaluation of a checkpoint on every example of a split, and its files."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rstg_jax import config, data, files, storage
from rstg_jax.errors import UserError
from rstg_jax.inference import class_metrics, protocols
from rstg_jax.training import (
    agreement,
    checkpoint,
    eval_loop,
    metrics,
    scores,
    steps,
    trained_model,
)

PRINTED_CONFUSIONS = 10


def evaluate_checkpoint(
    model: trained_model.TrainedModel, split: str | None = None, count: int | None = None
) -> tuple[dict[str, Any], eval_loop.Predictions]:
    """Evaluates a trained model on a split.

    Args:
      model: the model and its data.
      split: own name of the split, see `DataConfig.with_split`.
      count: only the first so many videos of it; all if None.

    Returns:
      The content of evaluation-NAME.json, without metrics if the split has no labels; and the
      predictions.
    """
    source, split = open_named(model.data, split)
    agreement.check(model.experiment, {split: source})
    agreement.check_same({"the step of the checkpoint": model.step})
    if tuple(source.label_names) != model.label_names:
        raise UserError(
            f"{source.name} has {len(source.label_names)} labels, {source.label_names[:3]}...; "
            f"the checkpoint has {len(model.label_names)}, {model.label_names[:3]}..."
        )
    data.refuse_endless(source)
    if count is not None:
        source = data.Chosen(source, np.arange(min(count, len(source))))
    protocols.check_fits(model)
    max_clips = model.experiment.train.max_eval_clips
    eval_step = steps.jit_eval_step(
        model.module,
        model.mesh,
        model.abstract,
        model.experiment.model.view_average,
        max_clips,
        model.experiment.loss.kind,
        model.logit_places,
    )
    batch_size = eval_loop.eval_batch_size(max_clips, model.mesh, model.data.views)
    totals: dict[str, Any] = {}
    parts = []
    for part in eval_loop.run(eval_step, model.variables, source, model.mesh, batch_size):
        totals = metrics.add(totals, part.sums)
        parts.append(part._replace(sums={}))
    result = {
        "split": split,
        "step": model.step,
        "protocol": model.data.protocol or None,
        "examples": totals["count"],
        "data": {split: eval_loop.provenance(source)},
        "config_hash": config.config_hash(model.experiment),
        "label_names": model.label_names,
    }
    if data.labelled(source):
        result |= metrics.finalize(totals)
        result["classes"] = class_metrics.classes(result, model.label_names)
        if "confusion" in result:
            found = class_metrics.confusions(result["confusion"], model.label_names)
            result["confusions"] = found
    return checkpoint.plain(result), eval_loop.collect(parts, len(source))


def open_named(config: data.DataConfig, split: str | None) -> tuple[data.Source, str]:
    """Opens a split by the name that its data set gives it; returns also that name."""
    chosen, part, name = config.with_split(split)
    return eval_loop.open_split(chosen, part), name


def submission_numbers(config: data.DataConfig, split: str | None) -> dict[str, int]:
    """Number of each label in the order of the data set's own file of labels."""
    chosen, part, _ = config.with_split(split)
    names = chosen.with_official_labels().open(part).label_names
    return {name: number for number, name in enumerate(names)}


def as_records(
    labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """The best classes of one video, `[k]` each, as ``{"label": name, "probability": p}``."""
    pairs = zip(labels, probabilities, strict=True)
    return [{"label": names[label], "probability": float(p)} for label, p in pairs]


def summary(result: Mapping[str, Any], title: str) -> str:
    """Formats the metrics of a split and its most frequent confusions as text."""
    if "top1" not in result:
        return f"{title}\n  {result['examples']} videos without labels: predictions only"
    lines = [title]
    numbers = {name: f"{result[name]:.5g}" for name in ("examples", "loss")}
    for name, value in (numbers | scores.accuracies(result)).items():
        lines.append(f"  {name:<9}{value:>10}")
    confusions = result.get("confusions", ())[:PRINTED_CONFUSIONS]
    if confusions:
        lines.append("  most frequent mistakes:")
    for pair in confusions:
        lines.append(f"  {pair['count']:>6}  {pair['true']} -> {pair['predicted']}")
    return "\n".join(lines)


def write(
    directory: storage.Path,
    stem: str,
    title: str,
    result: Mapping[str, Any],
    predictions: eval_loop.Predictions,
) -> list[storage.Path]:
    """Writes the files of an evaluation; returns their paths.

    Args:
      directory: where to write.
      stem: NAME in evaluation-NAME.json, evaluation-NAME.md and predictions-NAME.json.
      title: of the Markdown page.
      result: from `evaluate_checkpoint`.
      predictions: from `evaluate_checkpoint`.
    """
    paths = []
    if "top1" in result:
        # Not `with_suffix`: NAME may contain dots, which begin no suffix.
        paths += [directory / f"evaluation-{stem}{suffix}" for suffix in (".json", ".md")]
        files.write_json(paths[0], result)
        files.write_text(paths[1], class_metrics.markdown(result, title))
    records = {
        example: as_records(labels, probabilities, result["label_names"])
        for example, labels, probabilities in zip(*predictions, strict=True)
    }
    paths.append(directory / f"predictions-{stem}.json")
    files.write_json(paths[-1], records)
    return paths
