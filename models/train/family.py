"""Training jobs of the Fashion-MNIST family, and loading of its trained networks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.architectures.designed import Design, DesignedNetwork
from models.architectures.folded import fold_batch_norms
from models.architectures.resized import resize
from models.data.fashion_mnist import FASHION_MNIST, Images, load_train, split
from models.train import checkpoint
from models.train.checkpoint import CheckpointError
from models.train.job import Job, Prepared
from models.train.loop import CHECKPOINT
from models.train.recipe import TrainConfig, read_config


@dataclass(frozen=True)
class Setting:
    """What the trainings of one command share.

    `config` is the recipe. `runs` is the folder that has a folder for each training.
    """

    train: Prepared
    validation: Prepared
    config: TrainConfig
    runs: Path

    @classmethod
    def of(
        cls,
        data: Path,
        runs: Path,
        config: TrainConfig | None = None,
        limit: int | None = None,
        device: torch.device | None = None,
    ) -> Setting:
        """Load Fashion-MNIST's training images from `data` and split off the recipe's validation images.

        For quick trials, at most `limit` training images and `limit` validation images are kept. The images
        are put on `device`, by default the CPU, and networks are trained there. Raises DataError for missing
        or damaged files, and ValueError for a recipe that does not fit the data.
        """
        config = config or read_config()
        images = load_train(data, FASHION_MNIST)
        train, validation = split(images, config.data.validation, config.data.split_seed)
        if limit is not None:
            train, validation = _first(train, limit), _first(validation, limit)
        device = device or torch.device("cpu")
        return cls(Prepared.of(train).to(device), Prepared.of(validation).to(device), config, runs)


def _first(images: Images, count: int) -> Images:
    return Images(images.pixels[:count], images.classes[:count])


def run_folder(runs: Path, name: str, seed: int) -> Path:
    """Return the folder in `runs` of the training of the network `name` with `seed`."""
    return runs / f"{name}-seed{seed}"


def identity_of(design: Design, **more: Any) -> dict[str, Any]:
    """Return the identity of a training of a network with this design.

    `more` has everything else that determines the trained weights and that the recipe and the seed do not
    state.
    """
    return {"design": design.model_dump(mode="json"), **more}


def job_of(setting: Setting, name: str, design: Design, seed: int) -> Job:
    """Return the job that trains one network by the recipe."""
    return Job(
        folder=run_folder(setting.runs, name, seed),
        identity=identity_of(design),
        train=setting.train,
        validation=setting.validation,
        config=setting.config,
        seed=seed,
    )


def new_network(design: Design, seed: int, classes: int = FASHION_MNIST.classes) -> DesignedNetwork:
    """Return an untrained network, initialised by `seed`. This also sets torch's global seed."""
    torch.manual_seed(seed)
    return DesignedNetwork(design, classes)


def weights_digest(network: torch.nn.Module) -> str:
    """Return the first 16 hex digits of the SHA-256 of a network's state dict."""
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def load_trained(folder: Path, design: Design | None = None) -> tuple[DesignedNetwork, Mapping[str, Any]]:
    """Load a finished training: its network, in evaluation mode with the averaged weights, and its identity.

    `made_with` in the identity names the device and the version of torch.
    Raises FileNotFoundError if `folder` has no checkpoint. Raises CheckpointError if the checkpoint is
    damaged, the training is unfinished, or the network is not of `design`.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise FileNotFoundError(f"{folder}: no trained network; see docs/training.md")
    identity, state = checkpoint.load(path)
    if design is not None:
        expected = {"design": design.model_dump(mode="json")}
        checkpoint.require_identity(path, {"design": identity.get("design")}, expected)
    epochs = checkpoint.epochs_done(state)
    if epochs < identity["recipe"]["epochs"]:
        raise CheckpointError(
            f"{path}: unfinished, epoch {epochs} of {identity['recipe']['epochs']}; train it to the end"
        )
    network = DesignedNetwork(Design.model_validate(identity["design"]), FASHION_MNIST.classes)
    if identity.get("folded"):
        fold_batch_norms(network.eval())
    if identity.get("pruned"):
        resize(network, identity["pruned"])
    problems = checkpoint.state_dict_problems(state["average"], network.state_dict())
    if problems:
        raise CheckpointError(f"{path}: weights do not fit the design: {'; '.join(problems[:8])}")
    network.load_state_dict(state["average"])
    return network.eval(), {**identity, "made_with": checkpoint.made_with(state)}
