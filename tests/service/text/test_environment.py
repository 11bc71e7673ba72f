"""Reading of WEIGHIN_* variables as env files, shells and Kubernetes write them."""

from __future__ import annotations

import pytest

from service.text.environment import read_environment

SETTINGS = ("host", "port", "data_dir", "database_url", "gallery_model", "api_key")
LINKS = {
    "WEIGHIN_SERVICE_HOST": "10.96.12.34",
    "WEIGHIN_SERVICE_PORT": "8000",
    "WEIGHIN_SERVICE_PORT_HTTP": "8000",
    "WEIGHIN_PORT_8000_TCP": "tcp://10.96.12.34:8000",
    "WEIGHIN_PORT_8000_TCP_PROTO": "tcp",
    "WEIGHIN_PORT_8000_TCP_PORT": "8000",
    "WEIGHIN_PORT_8000_TCP_ADDR": "10.96.12.34",
    "WEIGHIN_DB_PORT": "tcp://10.96.12.35:5432",  # of a Service named weighin-db
    "WEIGHIN_DB_SERVICE_HOST": "10.96.12.35",
    "WEIGHIN_DB_PORT_5432_TCP_ADDR": "10.96.12.35",
}


@pytest.mark.parametrize(
    "text",
    [
        "9000",
        " 9000 ",
        "9000\r",
        "9000\n",
        "\t9000\r\n",
        "\ufeff9000",
        "9000\u00a0",
        "\ufeff \ufeff9000 \u200b\r\n",
    ],
)
def test_value_with_surrounding_blanks(text: str) -> None:
    assert read_environment({"WEIGHIN_PORT": text}, SETTINGS) == ({"port": "9000"}, [])


@pytest.mark.parametrize("text", ["", " ", "\r", "\r\n", "\t", "\ufeff"])
@pytest.mark.parametrize("name", [*SETTINGS, "prot"])
def test_blank_variable_is_unset(text: str, name: str) -> None:
    assert read_environment({f"WEIGHIN_{name.upper()}": text}, SETTINGS) == ({}, [])


@pytest.mark.parametrize("name", ["weighin_port", "Weighin_Port", "\ufeffWEIGHIN_PORT", "WEIGHIN_PORT "])
def test_variable_name_in_any_case(name: str) -> None:
    assert read_environment({name: "9000"}, SETTINGS)[0] == {"port": "9000"}


def test_upper_case_variable_wins() -> None:
    assert read_environment({"weighin_port": "1", "WEIGHIN_PORT": "2", "Weighin_port": "3"}, SETTINGS)[0] == {
        "port": "2"
    }


@pytest.mark.parametrize("link", ["tcp://10.96.12.34:8000", "udp://10.0.0.1:53", "tcp://[fd00::1]:8000"])
def test_kubernetes_service_link(link: str) -> None:
    values, [warning] = read_environment({"WEIGHIN_PORT": link, **LINKS}, SETTINGS)
    assert values == {}
    assert warning.startswith(f"WEIGHIN_PORT: '{link}' is a Kubernetes service link, ignored")
    assert "enableServiceLinks: false" in warning


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "port"])
def test_service_link_in_other_settings_is_a_value(name: str) -> None:
    variables = {f"WEIGHIN_{name.upper()}": "tcp://10.96.12.34:8000"}
    assert read_environment(variables, SETTINGS) == ({name: "tcp://10.96.12.34:8000"}, [])


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("WEIGHIN_PROT", "WEIGHIN_PORT"),
        ("WEIGHIN_DATADIR", "WEIGHIN_DATA_DIR"),
        ("weighin_data_dirs", "WEIGHIN_DATA_DIR"),
        ("WEIGH_IN_PORT", "WEIGHIN_PORT"),
        ("WEIGHINPORT", "WEIGHIN_PORT"),
        ("WEIGHIN_DATABASE_URI", "WEIGHIN_DATABASE_URL"),
    ],
)
def test_misspelt_name_warns_with_suggestion(name: str, nearest: str) -> None:
    values, warnings = read_environment({name: "x"}, SETTINGS)
    assert values == {}
    assert warnings == [f"{name}: unknown setting, ignored (did you mean {nearest}?)"]


def test_warning_without_the_value() -> None:
    assert read_environment({"WEIGHIN_API_KEYS": "secret", "WEIGHTS": "x", "PORT": "1"}, SETTINGS)[1] == [
        "WEIGHIN_API_KEYS: unknown setting, ignored (did you mean WEIGHIN_API_KEY?)"
    ]
    assert read_environment({"WEIGHIN_ZZZZZZZZ": "1"}, SETTINGS)[1] == [
        "WEIGHIN_ZZZZZZZZ: unknown setting, ignored"
    ]
