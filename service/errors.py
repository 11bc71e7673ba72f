"""Exceptions for expected failures; `service.api.problems` maps them to HTTP responses."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

MOST_NAMES = 5
"""Maximum number of names in a message."""


def error_words(error: OSError) -> str:
    """Return the operating system's message in lower case, without paths."""
    return (error.strerror or os.strerror(error.errno or errno.EIO)).lower()


class WeighinError(Exception):
    """An expected failure. `slug` is stable and names the kind; the message is safe to show to a client."""

    slug: ClassVar[str]
    extensions: Mapping[str, object] = MappingProxyType({})
    """Further members of the problem document, such as lists too long for a message."""

    @property
    def detail(self) -> str:
        """Message with the given and the allowed values, without paths or internal names."""
        return str(self)


class MalformedRequest(WeighinError):
    """The request is not valid HTTP/1.1, its body contradicts its headers, or its form lacks a part."""

    slug = "malformed-request"


class RequestTimeout(WeighinError):
    """The request head did not arrive in time."""

    slug = "request-timeout"


class HeadersTooLarge(WeighinError):
    """The request head has too many bytes or header fields."""

    slug = "headers-too-large"


class CrossSiteRequest(WeighinError):
    """A page of another site sent a request that changes state or costs inference time."""

    slug = "cross-site-request"


class UnknownModel(WeighinError):
    """No model with that name is served."""

    slug = "unknown-model"

    def __init__(self, name: str, served: Collection[str], message: str | None = None) -> None:
        names = sorted(served)
        if len(names) <= MOST_NAMES:
            allowed = ", ".join(names) or "none"
        else:
            close = difflib.get_close_matches(name[:100], names, MOST_NAMES)
            allowed = ", ".join(
                [*close, f"{len(names) - len(close)} others" if close else f"{len(names)} models"]
            )
        super().__init__(message or f"model '{name[:100]}': unknown (allowed: {allowed})")
        self.extensions = {"models": names}


class ModelUnavailable(WeighinError):
    """The model is known, but it could not be loaded or its run failed."""

    slug = "model-unavailable"


class BodyTooLarge(WeighinError):
    """The body has more bytes than the service reads."""

    slug = "body-too-large"


class TooManyPixels(WeighinError):
    """The image's header declares more pixels than the service decodes."""

    slug = "too-many-pixels"


class UnknownImageType(WeighinError):
    """The bytes are of no known image type."""

    slug = "unknown-image-type"


class EmptyBody(WeighinError):
    """The body or image has no bytes."""

    slug = "empty-body"

    def __init__(self) -> None:
        super().__init__("empty body: 0 bytes (needed: the bytes of an image)")


class UndecodableImage(WeighinError):
    """The image is of a known type, but truncated, corrupt or unsupported."""

    slug = "undecodable-image"


class InvalidParameter(WeighinError):
    """A parameter is outside its allowed range."""

    slug = "invalid-parameter"


class QueueFull(WeighinError):
    """The request queue is full."""

    slug = "queue-full"


class Busy(WeighinError):
    """The limit of running jobs of this kind is reached, or the system cannot start another process."""

    slug = "busy"


class NotReady(WeighinError):
    """Models are still being loaded, or the service is stopping."""

    slug = "not-ready"


class DeadlineExceeded(WeighinError):
    """The request exceeded its deadline."""

    slug = "deadline-exceeded"


class ClientGone(WeighinError):
    """The client disconnected before its request was processed."""

    slug = "client-gone"


class StorageUnavailable(WeighinError):
    """State cannot be read or written."""

    slug = "storage-unavailable"


class DatabaseUnreachable(StorageUnavailable):
    """The database server does not respond or accepts no connections; a retry may help."""

    slug = "database-unreachable"


class GalleryFull(WeighinError):
    """The gallery's limit of images or bytes is reached."""

    slug = "gallery-full"


class UnknownImage(WeighinError):
    """The gallery has no image with that id."""

    slug = "unknown-image"


class OtherModel(WeighinError):
    """The gallery's embeddings come from a model other than the requested one."""

    slug = "other-model"


class Unauthorized(WeighinError):
    """The request lacks the key that WEIGHIN_API_KEY sets."""

    slug = "unauthorized"


class OtherTask(WeighinError):
    """The model's task is not the route's: detectors cannot classify, and classifiers cannot detect."""

    slug = "other-task"


class NoExactMap(WeighinError):
    """The model has no exact class activation map: its logits are not means over its last feature map."""

    slug = "no-exact-map"


class UnknownBenchmark(WeighinError):
    """No benchmark has that id."""

    slug = "unknown-benchmark"


class BenchmarkEnded(WeighinError):
    """The benchmark has ended and cannot be cancelled."""

    slug = "benchmark-ended"


class DataDirectoryInUse(WeighinError):
    """Another process has locked the data directory."""

    slug = "data-directory-in-use"

    def __init__(self, message: str, addresses: Sequence[str] = ()) -> None:
        """`addresses`: URLs at which the other process serves. There are none if it is not a service."""
        super().__init__(message)
        self.addresses = tuple(addresses)


class InvalidBundle(WeighinError):
    """A file of measurements cannot be used: not a bundle, another schema version, or edited by hand."""

    slug = "invalid-bundle"


class InvalidInferenceRequest(WeighinError):
    """The request does not follow the Open Inference Protocol, or its tensors do not fit the model."""

    slug = "invalid-inference-request"


class UnsupportedEncoding(WeighinError):
    """The body is compressed, or has another content coding."""

    slug = "unsupported-encoding"


class UnknownEvaluation(WeighinError):
    """No evaluation has that id."""

    slug = "unknown-evaluation"


class InvalidEvaluation(WeighinError):
    """A document is not an evaluation, or its figures contradict its counts."""

    slug = "invalid-evaluation"


class InvalidDataset(WeighinError):
    """Labelled pictures cannot be evaluated: none can be read, or the layout of annotations is unknown."""

    slug = "invalid-dataset"


class UnreadableFolder(WeighinError):
    """A given folder cannot be listed."""

    slug = "unreadable-folder"


class RefusedModel(WeighinError):
    """A file cannot be added as a model, or contradicts the facts that were sent with it."""

    slug = "refused-model"


class ModelInUse(WeighinError):
    """The model cannot be deleted or replaced over HTTP: it is needed, or it was not added over HTTP."""

    slug = "model-in-use"


class NoKeySet(WeighinError):
    """The request needs a key, but the service has none: WEIGHIN_API_KEY is not set."""

    slug = "no-key-set"


class ModelExists(WeighinError):
    """A model of that name exists already."""

    slug = "model-exists"


class MeasurementFailed(WeighinError):
    """A measurement for a benchmark or for the gate failed."""

    slug = "measurement-failed"
