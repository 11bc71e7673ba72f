"""Who may change state: everyone, or only those who send the key that is set."""

import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from service.errors import Unauthorized

_bearer = HTTPBearer(auto_error=False, description="WEIGHIN_API_KEY, where it is set")


def key_needed(api_key: SecretStr | None) -> Callable[..., Awaitable[None]]:
    """A dependency for routes that change state: Unauthorized unless the request carries `api_key`.

    Without a key set, everyone may.
    """

    async def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        if api_key is None:
            return
        expected = api_key.get_secret_value().encode()
        if given is None:
            raise Unauthorized("this needs a key: send it as 'Authorization: Bearer <key>'")
        if not secrets.compare_digest(given.credentials.encode(), expected):
            raise Unauthorized("the key is not the right one")

    return check
