"""Options that several commands share, and the training setting that they describe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from models.zoo.files import networks_in

if TYPE_CHECKING:
    from models.train.family import Setting

RUNS = Path(".cache/runs")
PHOTOS = Path(".cache/photos")
PUBLISHED = Path(".cache/detectors")

Name = Annotated[str, typer.Argument(metavar="NAME")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="name of a training")]
Zoo = Annotated[Path, typer.Option(parser=networks_in, metavar="PATH", help="folder of models")]
Output = Annotated[Path, typer.Option(parser=networks_in, metavar="PATH", help="zoo to write to")]
Photos = Annotated[Path, typer.Option(help="folder of the photographs that `make photos` fetched")]
Published = Annotated[Path, typer.Option(help="folder of the weights that `make detectors` fetched")]
Json = Annotated[Path | None, typer.Option("--json", help="file to write the result to, for `report`")]
Seed = Annotated[int, typer.Option(help="seed of the training")]
DataDir = Annotated[Path | None, typer.Option(help="folder of Fashion-MNIST's four .gz files")]
Runs = Annotated[Path, typer.Option(help="folder of the trainings")]
Recipe = Annotated[Path | None, typer.Option(help="recipe; default: models/train/training.toml")]
Epochs = Annotated[int | None, typer.Option(help="number of epochs; default: the recipe's")]
Threads = Annotated[int, typer.Option(help="threads of torch")]
Limit = Annotated[int | None, typer.Option(help="number of training images, for a quick trial; default: all")]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="device to train on")]


def setting_of(
    data_dir: Path | None,
    runs: Path,
    recipe: Path | None,
    epochs: int | None,
    threads: int,
    limit: int | None,
    device: str = "cpu",
) -> Setting:
    """Return the images, the recipe and the folder that all trainings with these options share.

    This also sets torch's number of threads. Raises ValueError for an unavailable device and for fewer than
    one epoch, and DataError for missing images.
    """
    import torch

    from models.data.fashion_mnist import default_folder
    from models.train.device import device_of
    from models.train.family import Setting
    from models.train.recipe import RECIPE, read_config

    torch.set_num_threads(threads)
    config = read_config(recipe or RECIPE)
    if epochs is not None:
        if epochs < 1:
            raise ValueError(f"--epochs: {epochs} (allowed: 1 or more)")
        config = config.model_copy(update={"epochs": epochs})
    return Setting.of(data_dir or default_folder(), runs, config, limit, device_of(device))
