"""The service as an application: several of them in one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
from pydantic import SecretStr

from tests.conftest import make_tiny_model
from tests.helpers.problems import assert_problem
from tests.service.conftest import NewTables


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
