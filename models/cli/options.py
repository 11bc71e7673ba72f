"""Options that several commands have, and the setting of a training that they describe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from models.zoo.files import networks_in

if TYPE_CHECKING:
    from models.train.family import Setting

RUNS = Path(".cache/runs")
PHOTOS = Path(".cache/photos")

Name = Annotated[str, typer.Argument(metavar="NAME")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="a training's name")]
Zoo = Annotated[Path, typer.Option(parser=networks_in, metavar="PATH", help="the folder of networks")]
Output = Annotated[Path, typer.Option(parser=networks_in, metavar="PATH", help="the zoo to write to")]
Photos = Annotated[Path, typer.Option(help="where `make photos` put them")]
Json = Annotated[Path | None, typer.Option("--json", help="where the judgement goes, for the report")]
Seed = Annotated[int, typer.Option(help="of the training")]
DataDir = Annotated[Path | None, typer.Option(help="the folder with Fashion-MNIST's four .gz files")]
Runs = Annotated[Path, typer.Option(help="where trainings are kept")]
Recipe = Annotated[Path | None, typer.Option(help="another recipe than models/train/training.toml")]
Epochs = Annotated[int | None, typer.Option(help="instead of the recipe's")]
Threads = Annotated[int, typer.Option(help="of torch")]
Limit = Annotated[int | None, typer.Option(help="number of training images, for a quick trial; default: all")]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="where to train")]


def setting_of(
    data_dir: Path | None,
    runs: Path,
    recipe: Path | None,
    epochs: int | None,
    threads: int,
    limit: int | None,
    device: str = "cpu",
) -> Setting:
    """Return what all trainings with those options share.

    Raises ValueError for a device that is not there and for no epochs, and DataError without the images.
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
            raise ValueError(f"--epochs is {epochs}; at least 1 is needed")
        config = config.model_copy(update={"epochs": epochs})
    return Setting.of(data_dir or default_folder(), runs, config, limit, device_of(device))
