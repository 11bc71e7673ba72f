"""Train one network by a recipe. A training that was killed can be resumed, with the same result."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from models.train import augment, checkpoint
from models.train.device import Forward, cuda_graph, layout
from models.train.job import Job
from models.train.predict import accuracy
from models.train.recipe import TrainConfig
from models.zoo.files import write_whole

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"


@dataclass(frozen=True)
class Outcome:
    """Result of a training.

    `state` has the averaged weights as a state dict of the network. `accuracy` is the share of the validation
    images that the network with these weights classifies correctly. It is None if there are no validation
    images. `seconds` is the duration of all epochs together.
    """

    state: dict[str, Tensor]
    accuracy: float | None
    seconds: float


def train(network: nn.Module, job: Job, *, bar: bool = True) -> Outcome:
    """Train `network` to the recipe's last epoch, resuming from the checkpoint in the job's folder.

    After each epoch, the checkpoint and the log (one line of JSON per epoch) are replaced. A killed run
    resumes after its last complete epoch. On the same CPU with the same number of threads, it ends with the
    same weights, bit for bit; on a GPU, which adds in no fixed order, the weights differ slightly. Training
    runs on the device of the job's images. Afterwards the network has the averaged weights, in evaluation
    mode, on the CPU. `bar` shows progress on terminals.
    Raises CheckpointError for the checkpoint of another training, and RuntimeError if another process trains
    in the folder or the loss is not finite.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(job.folder / "lock", blocking=False):
            return _train(network, job, bar)
    except filelock.Timeout:
        raise RuntimeError(f"{job.folder}: another process is training here") from None


def _train(network: nn.Module, job: Job, bar: bool) -> Outcome:
    state = _State(network, job)
    state.resume()
    remaining = range(len(state.history), job.config.epochs)
    forward = state.forward() if remaining else network
    for epoch in remaining:
        started = time.perf_counter_ns()
        loss = _epoch(state, forward, job, epoch, bar)
        validation_accuracy = accuracy(state.average, job.validation) if len(job.validation) else None
        state.history.append(
            {
                "epoch": epoch + 1,
                "loss": loss,
                "validation_accuracy": validation_accuracy,
                "seconds": round((time.perf_counter_ns() - started) / 1e9, 2),
                "device": state.device.type,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            }
        )
        state.save()
    network.load_state_dict(state.average.state_dict())
    network.to("cpu").eval()
    last = state.history[-1]
    return Outcome(
        state=network.state_dict(),
        accuracy=last["validation_accuracy"],
        seconds=sum(entry["seconds"] for entry in state.history),
    )


def train_without_saving(network: nn.Module, job: Job, *, bar: bool = True) -> float:
    """Train `network` as `train` does, but write no files; return its accuracy on the validation images.

    The accuracy is from 0 to 1. This is for many short trainings. The job's folder is not used.
    """
    state = _State(network, job)
    forward = state.forward()
    for epoch in range(job.config.epochs):
        _epoch(state, forward, job, epoch, bar)
    return accuracy(state.average, job.validation)


class _State:
    """Everything that changes during a training, and the checkpoint in which it is saved.

    This is the weights, their average, the optimizer and the history of the epochs.
    """

    def __init__(self, network: nn.Module, job: Job) -> None:
        self.device = job.train.inputs.device
        self.network = network.train().to(self.device, memory_format=layout(self.device))
        self.average = _copy(network)
        self.history: list[dict[str, Any]] = []
        self._job = job
        self._path = job.folder / CHECKPOINT
        config = job.config.optimizer
        decayed = [p for p in network.parameters() if p.ndim > 1]
        undecayed = [p for p in network.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": undecayed, "weight_decay": 0.0},
        ]
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, foreach=not fused, fused=fused)

    def forward(self) -> Forward:
        """Return the function that computes the logits in training, in the device's fastest form."""
        size = min(self._job.config.batch_size, len(self._job.train))
        return cuda_graph(self.network, self._job.train.inputs[:size])

    def resume(self) -> None:
        if not self._path.exists():
            return
        identity, state = checkpoint.load(self._path)
        checkpoint.require_identity(self._path, identity, self._job.full_identity())
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = json.loads(state["history"])
        device = self.history[-1].get("device", "cpu")
        if device != self.device.type:  # the layout of the optimizer's state depends on the device
            raise checkpoint.CheckpointError(
                f"{self._path}: training was started on {device}; resume it with --device {device}"
            )
        self._write_log()

    def save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": json.dumps(self.history),
        }
        checkpoint.save(self._path, self._job.full_identity(), state)
        self._write_log()

    def _write_log(self) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in self.history)
        write_whole(self._job.folder / LOG, lines.encode())


def _copy(network: nn.Module) -> nn.Module:
    average = copy.deepcopy(network).eval()
    for parameter in average.parameters():
        parameter.requires_grad_(False)
    return average


def _epoch(state: _State, forward: Forward, job: Job, epoch: int, bar: bool) -> float:
    """Train for one pass over the images, and return the mean loss.

    All random numbers depend only on the job's seed, its passes and the epoch.
    """
    config = job.config
    torch.manual_seed(int(np.random.default_rng([2, job.seed, epoch]).integers(1 << 62)))
    order = torch.from_numpy(np.random.default_rng([3, job.seed, epoch]).permutation(len(job.train)))
    order = order.to(state.device)
    size = job.train.inputs.shape[-1]
    drawn = augment.draw(len(job.train), size, config.augmentation, job.passes.of(job.seed, epoch))
    drawn = drawn.to(state.device)
    background = float(job.train.inputs.min())
    batches = order.split(config.batch_size)
    # The sum stays on the device and is read at the end, because every read would stall a GPU.
    total = torch.zeros((), dtype=torch.float64, device=state.device)
    state.network.train()
    for index, indices in enumerate(_with_progress(batches, f"epoch {epoch + 1}/{config.epochs}", bar)):
        step = epoch * len(batches) + index
        rate = config.optimizer.learning_rate * _schedule(step, len(batches), config)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        images = augment.apply(job.train.inputs[indices], drawn, indices, background)
        logits = forward(images.contiguous(memory_format=layout(state.device)))
        loss = _losses(job, logits, indices, epoch).mean()
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.optimizer.step()
        if job.after_step is not None:
            job.after_step(state.network)
        _update_average(state.average, state.network, min(config.ema_decay, (1 + step) / (10 + step)))
        total += loss.detach().double() * len(indices)
    mean = float(total) / len(job.train)
    if not math.isfinite(mean):
        raise RuntimeError(f"{job.folder.name}: loss of epoch {epoch + 1} is {mean}; lower the learning rate")
    return mean


def _with_progress(batches: tuple[Tensor, ...], title: str, bar: bool) -> Iterator[Tensor]:
    # `disable=None` shows the bar on terminals only.
    yield from tqdm(batches, desc=title, leave=False, disable=None if bar else True)


def _losses(job: Job, logits: Tensor, indices: Tensor, epoch: int) -> Tensor:
    classes = job.train.classes[indices]
    if job.objective is not None:
        return job.objective(logits, classes, indices, epoch)
    return F.cross_entropy(logits, classes, reduction="none", label_smoothing=job.config.label_smoothing)


def _schedule(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Return the factor by which the learning rate is multiplied in a step.

    It rises linearly during the warm-up, and then falls to 0 as a cosine.
    """
    warm_up = config.optimizer.warm_up_epochs * steps_per_epoch
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    progress = (step - warm_up) / max(1.0, config.epochs * steps_per_epoch - warm_up)
    return (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def _update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Update the exponential moving average of weights and batch norm statistics, in place."""
    target, source = average.state_dict(keep_vars=False), network.state_dict(keep_vars=False)
    floats = [key for key, tensor in target.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([target[k] for k in floats], [source[k] for k in floats], 1 - decay)
    counts = [key for key, tensor in target.items() if not tensor.is_floating_point()]
    if counts:  # batch counters; a network with folded batch norms has none
        torch._foreach_copy_([target[k] for k in counts], [source[k] for k in counts])
