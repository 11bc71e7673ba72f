"""The commands of `python -m models` that train, compress and judge the Fashion-MNIST family."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

RUNS = Path(".cache/runs")


def add(commands: Any) -> None:
    """Add the commands to those of `python -m models`."""
    _add_train(commands)


def with_data(parser: argparse.ArgumentParser) -> None:
    """Add the options that all commands which train have."""
    parser.add_argument("--data-dir", type=Path, help="the folder with Fashion-MNIST's four .gz files")
    parser.add_argument(
        "--runs", type=Path, default=RUNS, help="where trainings are kept; default: %(default)s"
    )
    parser.add_argument("--recipe", type=Path, help="another recipe than models/train/training.toml")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--threads", type=int, default=2, help="of torch; default: %(default)s")
    parser.add_argument("--limit", type=int, help="learn from so many images only, to try things out")


def with_device(parser: argparse.ArgumentParser) -> None:
    """Add the option of commands that can train on a GPU."""
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where to train; default: %(default)s"
    )


def setting_of(options: argparse.Namespace) -> Any:
    """The `models.train.family.Setting` of those options.

    Raises ValueError for a device that is not there.
    """
    import torch

    from models.data.fashion_mnist import default_folder
    from models.train.device import device_of
    from models.train.family import Setting
    from models.train.recipe import RECIPE, read_config

    torch.set_num_threads(options.threads)
    config = read_config(options.recipe or RECIPE)
    if options.epochs is not None:
        if options.epochs < 1:
            raise ValueError(f"--epochs is {options.epochs}; at least 1 is needed")
        config = config.model_copy(update={"epochs": options.epochs})
    device = device_of(getattr(options, "device", "cpu"))
    return Setting.of(options.data_dir or default_folder(), options.runs, config, options.limit, device)


def _add_train(commands: Any) -> None:
    parser = commands.add_parser("train", help="train networks of the family; goes on where it was stopped")
    parser.add_argument("names", metavar="NAME", nargs="+", help="e.g. fashion-ghost, or all")
    parser.add_argument("--seed", type=int, default=0)
    with_data(parser)
    with_device(parser)
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    from models.architectures.fashion import DESIGNS, design_of
    from models.train.family import fresh, job_of
    from models.train.loop import train

    names = list(DESIGNS) if options.names == ["all"] else options.names
    designs = {name: design_of(name) for name in names}
    setting = setting_of(options)
    for name, design in designs.items():
        outcome = train(fresh(design, options.seed), job_of(setting, name, design, options.seed))
        print(f"{name}: {shown(outcome.accuracy)} on validation, {outcome.seconds / 60:.1f} min", flush=True)


def shown(accuracy: float | None) -> str:
    """A share in percent; a dash where there is none."""
    return "–" if accuracy is None else f"{accuracy:.2%}"
