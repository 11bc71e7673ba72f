"""The trained networks of the family: which jobs train them, and what comes back from a finished one."""

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
    """What all trainings of a session share: the images, the recipe, where runs are kept."""

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
        """The training images split by the recipe; with `limit` only the first so many, to try things out.

        They are put on `device`, the processor by default, and whatever learns from them is trained there.
        Raises DataError, and ValueError for a recipe that does not fit the data.
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
    """Where the training of a network by a seed is kept."""
    return runs / f"{name}-seed{seed}"


def identity_of(design: Design, **more: Any) -> dict[str, Any]:
    """What a checkpoint must belong to: the network, and what else decides its weights."""
    return {"design": design.model_dump(mode="json"), **more}


def job_of(setting: Setting, name: str, design: Design, seed: int) -> Job:
    """The plain training of one network."""
    return Job(
        folder=run_folder(setting.runs, name, seed),
        identity=identity_of(design),
        train=setting.train,
        validation=setting.validation,
        config=setting.config,
        seed=seed,
    )


def fresh(design: Design, seed: int, classes: int = FASHION_MNIST.classes) -> DesignedNetwork:
    """A network with the weights that every training by this seed begins with."""
    torch.manual_seed(seed)
    return DesignedNetwork(design, classes)


def weights_digest(network: torch.nn.Module) -> str:
    """Sixteen hex digits that say which weights a network has."""
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def trained(folder: Path, design: Design | None = None) -> tuple[DesignedNetwork, Mapping[str, Any]]:
    """The averaged weights of a training in their network, in evaluation mode, and the checkpoint's identity.

    `made_with` in it says on which device and by which torch it was trained.
    Raises FileNotFoundError where nothing was trained, and CheckpointError where the checkpoint is damaged,
    unfinished or, with `design`, of another network.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        raise FileNotFoundError(f"nothing is trained in {folder}; see docs/training.md")
    identity, state = checkpoint.load(path)
    if design is not None:
        wanted = {"design": design.model_dump(mode="json")}
        checkpoint.require_same(path, {"design": identity.get("design")}, wanted)
    epochs = checkpoint.epochs_done(state)
    if epochs < identity["recipe"]["epochs"]:
        raise CheckpointError(
            f"{path} is at epoch {epochs} of {identity['recipe']['epochs']}; train it to the end"
        )
    network = DesignedNetwork(Design.model_validate(identity["design"]), FASHION_MNIST.classes)
    if identity.get("folded"):
        fold_batch_norms(network.eval())
    if identity.get("pruned"):
        resize(network, identity["pruned"])
    problems = checkpoint.misfits(state["average"], network.state_dict())
    if problems:
        raise CheckpointError(f"{path} does not fit its own design: {'; '.join(problems[:8])}")
    network.load_state_dict(state["average"])
    return network.eval(), {**identity, "made_with": checkpoint.made_with(state)}
