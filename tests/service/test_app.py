"""The service as an application: several of them in one process."""

from __future__ import annotations

import ast
import asyncio
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

import service
from service.app import create_app
from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.helpers.problems import assert_problem
from tests.service.conftest import NewTables


@pytest.mark.slow
def test_services_of_one_process_have_their_own_parts(
    serve: Callable[..., httpx.Client], new_tables: NewTables, tmp_path: Path, cat_jpeg: bytes
) -> None:
    """All services of a process share the routes, but no part, limit or key behind them."""
    make_tiny_model(tmp_path / "models", "other", seed=1)
    guarded = serve(api_key=SecretStr("secret"), max_body_bytes=len(cat_jpeg) - 1)
    second = serve(
        data_dir=tmp_path / "second",
        database_url=new_tables(tmp_path / "second"),
        model_dirs=(tmp_path / "models",),
        default_model="other",
    )
    for _ in range(2):
        assert_problem(guarded.post("/classify", content=cat_jpeg), 413, "body-too-large")
        form = {"image": cat_jpeg}
        assert_problem(guarded.post("/classify", files=form), 413, "body-too-large")
        assert_problem(guarded.delete("/gallery/images/a"), 401, "unauthorized")
        assert second.post("/classify", content=cat_jpeg).json()["model"] == "other"
        assert second.post("/classify", files=form).json()["model"] == "other"
        assert_problem(second.delete("/gallery/images/a"), 404, "unknown-image")
    for client, names, name, count in (
        (guarded, ["tiny", "tiny-b"], "tiny", 0),
        (second, ["other"], "other", 4),
    ):
        assert [model["name"] for model in client.get("/models").json()["models"]] == names
        row = client.get(f"/latency?model={name}&stage=total").json()["latencies"][0]
        assert row["count"] == count


@pytest.mark.slow
def test_every_part_that_a_route_asks_for_is_there(tiny_settings: Settings) -> None:
    """A missing one would raise KeyError at the first request."""

    async def parts_of_service() -> dict[type[object], object]:
        app = create_app(tiny_settings)
        async with app.router.lifespan_context(app):
            parts: dict[type[object], object] = app.state.parts
            return parts

    parts = asyncio.run(parts_of_service())
    asked = list(_asked_parts())
    assert len(asked) > 50
    assert [(where, kind) for where, kind in asked if kind not in parts] == []


def _asked_parts() -> Iterator[tuple[str, Any]]:
    """Yield the place and the class of each call of `app_part` in the service."""
    for path in sorted(Path(service.__path__[0]).rglob("*.py")):
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "app_part"
        ]
        if calls:
            name = ".".join(path.relative_to(Path(service.__path__[0]).parent).with_suffix("").parts)
            module = importlib.import_module(name)
            for call in calls:
                kind = call.args[1]
                assert isinstance(kind, ast.Name), f"{name}, line {call.lineno}: app_part(request, CLASS)"
                yield f"{name}, line {call.lineno}", getattr(module, kind.id)
