"""What can go wrong, as plain exceptions; `service.api.problems` turns them into HTTP responses."""

from __future__ import annotations

import errno
import os
from typing import ClassVar


def error_words(error: OSError) -> str:
    """Return what the operating system says, in lower case and without paths."""
    return (error.strerror or os.strerror(error.errno or errno.EIO)).lower()


class WeighinError(Exception):
    """An expected failure. `slug` is stable and names the kind; the message is safe to show to a client."""

    slug: ClassVar[str]

    @property
    def detail(self) -> str:
        """What was given and what is allowed, in words; never a path or an internal name."""
        return str(self)


class MalformedRequest(WeighinError):
    """The request is not valid HTTP/1.1, or its body is not what its headers say, or lacks a part."""

    slug = "malformed-request"


class RequestTimeout(WeighinError):
    """The request head did not arrive in time."""

    slug = "request-timeout"


class HeadersTooLarge(WeighinError):
    """The request head has too many bytes or header fields."""

    slug = "headers-too-large"


class CrossSiteRequest(WeighinError):
    """A page of another site tried to change something or to spend this machine's time."""

    slug = "cross-site-request"


class UnknownModel(WeighinError):
    """No model of that name is served."""

    slug = "unknown-model"


class ModelUnavailable(WeighinError):
    """The model is known but could not be loaded, or this run of it failed."""

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
    """There are no bytes."""

    slug = "empty-body"

    def __init__(self) -> None:
        super().__init__("empty body: 0 bytes (needed: the bytes of an image)")


class UndecodableImage(WeighinError):
    """The bytes are of a known image type, but broken."""

    slug = "undecodable-image"


class InvalidParameter(WeighinError):
    """A parameter is outside of what is allowed."""

    slug = "invalid-parameter"


class QueueFull(WeighinError):
    """As many requests wait as may."""

    slug = "queue-full"


class Busy(WeighinError):
    """The one place for this kind of work is taken."""

    slug = "busy"


class NotReady(WeighinError):
    """Models are still being loaded, or the service is stopping."""

    slug = "not-ready"


class DeadlineExceeded(WeighinError):
    """The answer would come too late to be of use."""

    slug = "deadline-exceeded"


class ClientGone(WeighinError):
    """The client hung up before its request was worked on."""

    slug = "client-gone"


class StorageUnavailable(WeighinError):
    """State cannot be written."""

    slug = "storage-unavailable"


class DatabaseUnreachable(StorageUnavailable):
    """The database server does not answer, or takes no more connections; it may again in a moment."""

    slug = "database-unreachable"


class GalleryFull(WeighinError):
    """The gallery holds as many images or bytes as it may."""

    slug = "gallery-full"


class UnknownImage(WeighinError):
    """No image of the gallery has that id."""

    slug = "unknown-image"


class OtherModel(WeighinError):
    """The gallery's embeddings are of another model than the one that was asked for."""

    slug = "other-model"


class Unauthorized(WeighinError):
    """The request needs the key that WEIGHIN_API_KEY sets."""

    slug = "unauthorized"


class NoExactMap(WeighinError):
    """The model's logits are no sums over the places of its last feature map, as far as is known here."""

    slug = "no-exact-map"


class UnknownBenchmark(WeighinError):
    """No benchmark has that id."""

    slug = "unknown-benchmark"


class BenchmarkEnded(WeighinError):
    """The benchmark has ended, so it cannot be cancelled any more."""

    slug = "benchmark-ended"


class DataDirectoryInUse(WeighinError):
    """Another process has the data directory."""

    slug = "data-directory-in-use"


class InvalidBundle(WeighinError):
    """A file of measurements cannot be used: not a bundle, another schema version, or edited by hand."""

    slug = "invalid-bundle"


class UnreadableFolder(WeighinError):
    """A folder that was named cannot be listed."""

    slug = "unreadable-folder"


class MeasurementFailed(WeighinError):
    """A controlled measurement could not be carried through."""

    slug = "measurement-failed"
