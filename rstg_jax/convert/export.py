"""Writes the weights of a run as one .safetensors file, with its config and label names.

    python -m rstg_jax.convert.export --workdir=RUN --out=FILE.safetensors [--step=best] [--half]
        [--config.data.path=DIR]

The file is all that is needed to use or to go on training the model:

    python -m rstg_jax.predict --weights=FILE.safetensors clip.mp4
    python train.py --config=... --config.train.init_from=FILE.safetensors

That of a run on stored feature maps also has the network that made them (`rstg_jax.features`), so
that the two together label videos. ``--config.data.path`` says where the maps lie now; of the other
keys of the config only those may be given that may differ when a run is resumed.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstg_jax import cli, config
from rstg_jax.errors import UserError
from rstg_jax.training.experiment import Experiment

if TYPE_CHECKING:  # they load JAX
    from rstg_jax.data.features import FeaturesConfig
    from rstg_jax.training.trained_model import TrainedModel
    from rstg_jax.training.weights import Weights


def portable(experiment: Experiment) -> Experiment:
    """The experiment without places on the machine where it ran."""
    data = experiment.data
    fields = (field for field in dataclasses.fields(data) if field.name in data.may_differ)
    # A field without a default keeps its value: nothing else is known to be valid.
    places = {f.name: _default(f, getattr(data, f.name)) for f in fields}
    if boxes := getattr(data, "boxes", None):
        places["boxes"] = dataclasses.replace(boxes, path="")
    train = dataclasses.replace(experiment.train, init_from="", init_fresh=(), init_ignore=())
    return dataclasses.replace(experiment, data=dataclasses.replace(data, **places), train=train)


def _default(field: dataclasses.Field[Any], value: Any) -> Any:
    """The default of a field, or `value` if there is none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return value if field.default is dataclasses.MISSING else field.default


def behind_its_network(
    model: "TrainedModel", maps: "FeaturesConfig", source: dict[str, Any]
) -> "Weights":
    """A model of stored feature maps as one of videos: the network that made them, and the rest.

    Args:
      model: of the run.
      maps: its data.
      source: for the record.

    Raises:
      UserError: the directory of the maps is gone or has those of another network, or blocks are
        inside the network.
    """
    from rstg_jax.data.features import NETWORK
    from rstg_jax.models.config import FINAL
    from rstg_jax.training import weights, weights_file

    stored, path = maps.described(maps.tested), maps.directory / NETWORK
    there, here = stored.weights.get("sha256"), model.meta["data"]["test"].get("weights_sha256")
    if there != here:
        raise UserError(
            f"{maps.directory}: its network is not the one of this run: its maps are of weights "
            f"with the checksum {there}, the run's of {here}"
        )
    network = weights_file.read(path)
    experiment = network.experiment
    if (found := weights.checksum(experiment, network.variables)) != there:
        raise UserError(
            f"{path}: its weights have the checksum {found}, those that made the maps beside it "
            f"{there}; put the network that made them there"
        )
    if set(experiment.model.rstg_at) - {FINAL}:
        raise UserError(
            f"{path}: has blocks inside (rstg_at={experiment.model.rstg_at}),"
            " which cannot be joined with those of the run"
        )
    joined = dataclasses.replace(model.experiment.model, backbone=experiment.model.backbone)
    variables = {
        collection: {
            **model.variables.get(collection, {}),
            **{k: v for k, v in network.variables[collection].items() if k == "backbone"},
        }
        for collection in network.variables
    }
    whole = dataclasses.replace(model.experiment, model=joined, data=experiment.data)
    return weights_file.Weights(whole, variables, model.label_names, source)


def elsewhere(model: "TrainedModel", overrides: Mapping[str, str]) -> "TrainedModel":
    """The model with its data at other places; raises `UserError` for any other change."""
    may_differ = [f"data.{name}" for name in model.data.may_differ]
    for key in overrides:
        if not config.matches(key, may_differ):
            raise UserError(
                f"--config.{key}: the config of an export is that of the run; what may be given: "
                f"{', '.join(may_differ) or 'nothing'}"
            )
    return model._replace(experiment=config.override(model.experiment, overrides))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("rstg_jax.convert.export", __doc__, whole=True)
    parser.add_argument("--workdir", required=True, help="directory of the training run")
    parser.add_argument("--step", default="last", help="last (default), best, or a number")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.safetensors")
    parser.add_argument("--half", action="store_true", help="store float16, half the size")
    args, overrides = cli.parse(parser, argv)
    from rstg_jax.data.features import FeaturesConfig
    from rstg_jax.training import trained_model, weights_file  # they load JAX
    from rstg_jax.training.weights import Weights

    if args.out.suffix != weights_file.SUFFIX:
        raise UserError(f"--out={args.out} must end in {weights_file.SUFFIX}")
    model = elsewhere(trained_model.load(args.workdir, args.step), overrides)
    source = {"run": model.experiment.name, "step": model.step, "test": model.meta.get("test")}
    weights = Weights(model.experiment, model.variables, model.label_names, source)
    if isinstance(model.data, FeaturesConfig):
        weights = behind_its_network(model, model.data, source)
    weights = weights._replace(experiment=portable(weights.experiment))
    weights_file.write(args.out, weights, args.half)
    print(
        f"{args.out}: {model.experiment.name}, step {model.step}, {args.out.stat().st_size:,} bytes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
