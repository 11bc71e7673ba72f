"""The structure that most image classifiers share, from the first convolution to the linear classifier."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from models.architectures.initialise import initialise


class ImageClassifier(nn.Module):
    """Classifier, which maps images (N, input_channels, input_size, input_size) to logits (N, classes).

    `stem`, `blocks` and `head` compute the last feature map, which is averaged over its positions. `hidden`
    is an optional layer with `embedding` outputs before the linear classifier.
    `start` is called with the network and initialises its weights.
    """

    input_channels = 3

    def __init__(
        self,
        stem: nn.Module,
        blocks: nn.Sequential,
        head: nn.Module,
        *,
        embedding: int,
        classes: int,
        dropout: float,
        hidden: nn.Module | None = None,
        input_size: int = 224,
        start: Callable[[nn.Module], object] = initialise,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.stem = stem
        self.blocks = blocks
        self.head = head
        self.hidden = nn.Identity() if hidden is None else hidden
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(embedding, classes)
        start(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, channels, h, w)."""
        y: Tensor = self.head(self.blocks(self.stem(x)))
        return y

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Return logits (N, classes), or if `pre_logits` is true, the classifier's input (N, embedding)."""
        embedding: Tensor = self.hidden(F.adaptive_avg_pool2d(features, 1).flatten(1))
        if pre_logits:
            return embedding
        logits: Tensor = self.classifier(self.dropout(embedding))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
