"""Store an evaluation in the data directory, or at a running service; find stored evaluations."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.zoo.display import shown
from service.errors import (
    DataDirectoryInUse,
    InvalidEvaluation,
    InvalidParameter,
    StorageUnavailable,
    UnknownEvaluation,
    error_words,
)
from service.evaluation.merge import merge
from service.evaluation.result import Evaluation, from_json, read_evaluation, to_json, write_evaluation
from service.evaluation.store import EvaluationStore
from service.settings import Settings
from service.state import open_state
from service.text.urls import redacted, service_url

if TYPE_CHECKING:
    import httpx  # lazy, because the import takes a tenth of a second

_TIMEOUT_S = 60.0
_KEY_NEEDED = 401
_MOST_STORED = 10
"""Maximum number of stored evaluations in a message; the newest ones are listed."""


@dataclass(frozen=True)
class Kept:
    """An evaluation as it was stored, and the place where it was stored.

    `evaluation`: also has the models that an earlier evaluation of the same data set had. `where`: the place,
    in words. `file`: the file, if the evaluation was only written to a file. In this case, `where` also says
    how to post the file to a service.
    """

    evaluation: Evaluation
    where: str
    file: Path | None = None


def keep(evaluation: Evaluation, settings: Settings, url: str | None = None) -> Kept:
    """Store an evaluation at the service at `url`; if `url` is None, in the data directory.

    If a running service has locked the data directory, post the evaluation to this service. If storing fails,
    write the evaluation to a file in the data directory. Raises StorageUnavailable if this fails, too. Raises
    InvalidParameter for an invalid `url`, and InvalidEvaluation if the stored evaluation of the data set
    contradicts the new one.
    """
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    addresses: tuple[str, ...] = ()
    if url is not None:
        try:
            addresses = (service_url(url),)
        except ValueError as error:
            raise InvalidParameter(f"--url {error}") from None
        reason = ""
    else:
        try:
            with open_state(settings.data_dir, settings.database_url) as state:
                return Kept(state.evaluations.save(evaluation), f"stored as {evaluation.id}")
        except StorageUnavailable as error:
            reason = error.detail
        except DataDirectoryInUse as error:
            reason, addresses = error.detail, error.addresses
    for address in addresses:
        answer = _post(evaluation, address, key, proxies=url is not None)
        if isinstance(answer, Kept):
            return answer
        reason = answer
    return _in_file(evaluation, settings.data_dir, reason, addresses)


def stored_evaluation(store: EvaluationStore, identifier: str, *, files: bool = False) -> Evaluation:
    """Return the stored evaluation whose id was given by --data.

    Raises UnknownEvaluation, whose message lists stored ids. `files`: whether the message says that --data
    may also name a file.
    """
    try:
        return store.get(identifier)
    except UnknownEvaluation:
        stored = [f"{each.id} of {shown(each.name)}" for each in store.summaries(_MOST_STORED)]
        ids = ", ".join(stored) or "none is stored; `weighin evaluate` makes one"
        raise UnknownEvaluation(
            f"--data {shown(identifier[:64])}: no such evaluation "
            f"(allowed: {'a file, or an id: ' if files else ''}{ids})"
        ) from None


def _post(evaluation: Evaluation, address: str, api_key: str | None, *, proxies: bool) -> Kept | str:
    """Post an evaluation to the service at `address`.

    Return what the service has stored, or, if posting failed, a message that says why.
    """
    import httpx  # imported here, because it takes a tenth of a second

    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    url, where = f"{address}/evaluations", redacted(address)
    try:
        verify = httpx.URL(address).scheme == "https"  # for http, loading certificates would waste time
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=proxies, headers=headers, verify=verify) as client:
            content = to_json(evaluation).encode()
            response = client.post(url, content=content, headers={"Content-Type": "application/json"})
            if response.is_success:
                response = client.get(f"{url}/{evaluation.id}")
            if not response.is_success:
                hint = "; WEIGHIN_API_KEY sets it" if response.status_code == _KEY_NEEDED else ""
                return f"service at {where}: {_detail(response)}{hint}"
            return Kept(from_json(response.content), f"stored as {evaluation.id} by the service at {where}")
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        return f"no answer from {where}: {error or type(error).__name__}"
    except InvalidEvaluation as error:
        return f"service at {where}: {error.detail}"


def _detail(response: httpx.Response) -> str:
    try:
        return shown(str(response.json()["detail"])[:1000])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"


def _in_file(evaluation: Evaluation, data_dir: Path, reason: str, addresses: tuple[str, ...]) -> Kept:
    """Write the evaluation to a file, merged with an earlier file of the same data set.

    The result says how to post the file to a service. `reason`: why the evaluation could not be stored.
    Raises StorageUnavailable if the file cannot be written.
    """
    folder = data_dir.absolute() / "evaluations"
    file = folder / f"{evaluation.id}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(InvalidEvaluation):  # there is no earlier file, or it is unreadable
            evaluation = merge(read_evaluation(file), evaluation)
        write_evaluation(file, evaluation)
    except OSError as error:
        raise StorageUnavailable(f"{reason}; {file.name} cannot be written: {error_words(error)}") from None
    address = redacted(addresses[0]) if addresses else "URL"
    post = f"curl --json {shlex.quote(f'@{file}')} -H 'Authorization: Bearer KEY' {address}/evaluations"
    return Kept(evaluation, f"not stored: {reason}; it is in {file}, to post it: {post}", file)
