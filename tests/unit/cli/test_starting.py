"""`init`: it adds what is missing and overwrites nothing."""

import stat
from importlib.resources import files
from pathlib import Path

import pytest

from modelmill.cli.local import InitOutcome, InitRequest
from modelmill.cli.starting import init
from modelmill.errors import UsageError
from modelmill.outcomes import no_progress
from modelmill.settings import Settings

TEMPLATE = Path(str(files("modelmill.cli"))) / "template"
WRITTEN = {"delays.py", "test_delays.py", "modelmill.toml", ".gitignore", "sample/flights.parquet"}


def start(folder: Path) -> InitOutcome:
    return init(Settings(root=folder), InitRequest(folder=str(folder)), no_progress)


def names(shown: tuple[str, ...]) -> set[str]:
    return {text.split(" (")[0] for text in shown}


def test_a_new_folder_gets_everything(tmp_path: Path) -> None:
    outcome = start(tmp_path / "a" / "delays")
    assert names(outcome.created) == WRITTEN
    assert all((tmp_path / "a" / "delays" / name).is_file() for name in WRITTEN)
    assert outcome.next.startswith("cd ")


def test_the_signing_key_is_its_owners_alone(tmp_path: Path) -> None:
    start(tmp_path)
    assert stat.S_IMODE((tmp_path / ".modelmill/keys/signing.key").stat().st_mode) == 0o600


def test_doing_it_again_changes_nothing(tmp_path: Path) -> None:
    start(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    outcome = start(tmp_path)
    assert (outcome.created, names(outcome.kept)) == ((), WRITTEN)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_is_there_is_kept_and_the_rest_added(tmp_path: Path) -> None:
    (tmp_path / "delays.py").write_text("# mine", encoding="utf-8")
    (tmp_path / ".gitignore").write_text("*.pyc\n", encoding="utf-8")
    outcome = start(tmp_path)
    assert names(outcome.created) == WRITTEN - {"delays.py", ".gitignore"}
    assert (tmp_path / "delays.py").read_text(encoding="utf-8") == "# mine"
    assert ".modelmill/" in outcome.notices[0]


def test_a_project_with_a_model_of_its_own_gets_no_second_one(tmp_path: Path) -> None:
    (tmp_path / "stores.py").write_text('m = mm.Model("stores", Store)', encoding="utf-8")
    outcome = start(tmp_path)
    assert "stores.py" in outcome.kept
    assert not (tmp_path / "delays.py").exists()
    assert not (tmp_path / "sample").exists()


def test_settings_without_the_samples_connection_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "modelmill.toml").write_text("[environments.dev]\n", encoding="utf-8")
    assert "[connections.flights]" in start(tmp_path).notices[0]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    with pytest.raises(UsageError, match="cannot be a project's folder"):
        start(tmp_path / "here")


def test_a_folder_with_spaces_is_quoted_in_the_next_command(tmp_path: Path) -> None:
    assert start(tmp_path / "my models").next == f"cd '{tmp_path}/my models' && modelmill check"


def test_the_model_file_is_short_enough_to_read() -> None:
    assert len((TEMPLATE / "delays.py").read_text(encoding="utf-8").splitlines()) <= 60


def test_the_sample_is_small_enough_to_ship() -> None:
    assert (TEMPLATE / "sample/flights.parquet").stat().st_size <= 1_500_000
