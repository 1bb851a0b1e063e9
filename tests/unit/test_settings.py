"""Settings: the file, then the environment, then flags; a mistake is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelmill.errors import ConnectionUnknown, ProjectNotFound, SettingInvalid
from modelmill.settings import ServeSettings, find_project, load_settings, parse_memory


def write(folder: Path, text: str) -> Path:
    (folder / "modelmill.toml").write_text(text, encoding="utf-8")
    return folder


def test_a_flag_beats_a_variable_and_a_variable_beats_the_file(tmp_path: Path) -> None:
    write(tmp_path, 'store = "from-file"')
    assert load_settings(tmp_path, {}).store == "from-file"
    assert load_settings(tmp_path, {"MODELMILL_STORE": "from-variable"}).store == "from-variable"
    assert load_settings(tmp_path, {"MODELMILL_STORE": "v"}, store="from-flag").store == "from-flag"


def test_defaults_and_derived_places(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {})
    assert settings.store_folder == tmp_path / ".modelmill"
    assert settings.database_url == f"sqlite:///{tmp_path}/.modelmill/mill.db"
    assert load_settings(tmp_path, {"MODELMILL_DATABASE_URL": "postgresql://h/d"}).database_url == "postgresql://h/d"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('stor = "x"', "unknown setting `stor`"),
        ("[build]\nworker = 2", "unknown setting `build.worker`"),
        ("[serve]\nport = 'x'", "setting `serve.port` has the wrong type"),
        ("[build]\nworkers = -1", "setting `build.workers` is too small"),
        ("[build]\nworker_memory_mb = 200", "setting `build.worker_memory_mb` is too small"),
        ("store = [", "not valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingInvalid, match=said) as caught:
        load_settings(write(tmp_path, text), {})
    assert str(tmp_path) in caught.value.parts["where"]


def test_a_misspelt_setting_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid) as caught:
        load_settings(write(tmp_path, 'stor = "x"'), {})
    assert caught.value.parts["likely"] == "did you mean `store`?"


def test_variables_reach_into_tables(tmp_path: Path) -> None:
    assert load_settings(tmp_path, {"MODELMILL_PORT": "0", "MODELMILL_HOST": "::1"}).serve == ServeSettings("::1", 0)
    (tmp_path / "modelmill.toml").write_text("[serve]\nport = 9\nworkers = 3")
    assert load_settings(tmp_path, {"MODELMILL_PORT": "7"}).serve == ServeSettings(port=7, workers=3)
    with pytest.raises(SettingInvalid, match="setting `serve.port` has the wrong type"):
        load_settings(tmp_path, {"MODELMILL_PORT": "http"})
    (tmp_path / "modelmill.toml").write_text("serve = 8700")
    with pytest.raises(SettingInvalid, match="setting `serve` has the wrong type"):
        load_settings(tmp_path, {"MODELMILL_PORT": "7"})


def test_a_connection_has_an_address_per_environment(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, '[connections.rows]\ndev = "a.csv"'), {})
    assert settings.address("rows", "dev") == "a.csv"
    with pytest.raises(ConnectionUnknown, match="no address in environment `prod`"):
        settings.address("rows", "prod")
    with pytest.raises(ConnectionUnknown) as caught:
        settings.address("row", "dev")
    assert caught.value.parts["likely"] == "did you mean `rows`?"


def test_the_project_is_found_from_below(tmp_path: Path) -> None:
    below = write(tmp_path, "") / "a" / "b"
    below.mkdir(parents=True)
    assert find_project(below) == tmp_path


def test_no_project_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProjectNotFound) as caught:
        find_project(tmp_path)
    assert "modelmill init" in caught.value.parts["next"]


def test_an_environment_names_the_machines_of_its_nodes(tmp_path: Path) -> None:
    write(tmp_path, '[environments.prod]\nnodes = ["node-1", "node-2"]\n')
    settings = load_settings(tmp_path, {})
    assert settings.environment("prod").nodes == ("node-1", "node-2")
    assert settings.environment("dev").nodes == ()


@pytest.mark.parametrize("nodes", ['"node-1"', "[1]", '[""]'])
def test_machines_that_are_no_names_are_told(tmp_path: Path, nodes: str) -> None:
    write(tmp_path, f"[environments.prod]\nnodes = {nodes}\n")
    with pytest.raises(SettingInvalid, match=r"environments\.prod\.nodes"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize("share", ["1.5", "-0.1", '"few"', "true"])
def test_a_share_of_refused_segments_that_is_none_is_told(tmp_path: Path, share: str) -> None:
    write(tmp_path, f"[environments.prod]\nmost_refused = {share}\n")
    with pytest.raises(SettingInvalid, match=r"environments\.prod\.most_refused"):
        load_settings(tmp_path, {})


@pytest.mark.parametrize("name", ["most_refused", "nodes", "requires", "slo"])
def test_what_an_environment_may_say_is_in_the_reference(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
    assert f"`environments.NAME.{name}`" in page.read_text(encoding="utf-8")


def test_grpc_is_off_unless_it_has_a_port_and_each_environment_has_one_of_its_own(tmp_path: Path) -> None:
    places = "[environments.dev]\n[environments.prod]\n[environments.test]\ngrpc_port = 0\n"
    assert load_settings(write(tmp_path, places), {}).serving("prod").grpc_port == -1
    settings = load_settings(write(tmp_path, f"[serve]\ngrpc_port = 8801\n{places}"), {})
    assert [settings.serving(name).grpc_port for name in ("dev", "prod", "test")] == [8801, 8802, 0]
    assert load_settings(write(tmp_path, f"[serve]\ngrpc_port = 0\n{places}"), {}).serving("prod").grpc_port == 0


def test_memory_is_read_with_its_unit() -> None:
    assert parse_memory("1GiB") == 1 << 30
    assert parse_memory(" 1.5 gib") == 3 << 29
    assert parse_memory("800 MB") == 800_000_000
    for wrong in ("", "much", "1 TiBs", "-1GiB", "100MiB", "5"):
        with pytest.raises(SettingInvalid, match="memory|too little"):
            parse_memory(wrong)


@pytest.mark.parametrize("memory", ["lots", "1MiB"])
def test_an_amount_of_memory_that_is_none_is_told_with_its_place(tmp_path: Path, memory: str) -> None:
    with pytest.raises(SettingInvalid, match=r"`serve\.memory`.*" + memory) as caught:
        load_settings(write(tmp_path, f'[serve]\nmemory = "{memory}"\n'), {})
    assert caught.value.parts["where"].endswith("modelmill.toml")
