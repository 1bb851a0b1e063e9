"""Package environments go when nothing can need them: not what is released, gone back to, used now, or used of late."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from modelmill.cli.rendering import render
from modelmill.model.columns import Column
from modelmill.model.schema import SchemaSpec
from modelmill.names import Digest, ModelName, digest_of
from modelmill.orchestrator.cleaning import clean_environments
from modelmill.orchestrator.fsck import fsck
from modelmill.orchestrator.preparing import environments_kept
from modelmill.outcomes import no_progress
from modelmill.registry.environment import Use, _state_of, environments_in
from modelmill.registry.fleet import Entry, FleetMap, Header, sign
from modelmill.registry.lock import Lock, Package
from modelmill.release.pointers import Beside, Pointer, Published, Shadow, publish
from modelmill.release.rows import lock_environment
from modelmill.requests import FsckRequest
from modelmill.settings import Settings
from modelmill.store.opening import Store, open_store

SPEC = SchemaSpec("Sale", "", (Column("store", "key", "str"), Column("y", "target", "float")))
NAME = ModelName("sales")
ALL = ("current", "before", "beside", "shadow", "used", "of late", "nobody's")
LONG_AGO = 1_000_000_000


class Project:
    """A store with a release of each kind, whose versions need an environment each, and three more that none needs."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(root=folder)
        with open_store(self.settings) as store:
            self.locks = {name: self._lock(store, name) for name in ALL}
            maps = {name: self.map_of(store, self.locks[name]) for name in ALL[:4]}
            (digest, signature) = maps["beside"]
            pointer = Pointer(
                2,
                *maps["current"],
                before=Pointer(1, *maps["before"]),
                beside=Beside(3, digest, signature, "requests", 0.5, "salt"),
                shadows=(Shadow(4, *maps["shadow"]),),
            )
            publish(store.pointers, Published("prod", 1, {NAME: pointer}))
            self.folder = environments_in(store.folder)
        for name, lock in self.locks.items():
            (self.folder / lock).mkdir(parents=True)
            Use(self.folder, lock).end()
            if name != "of late":
                self.age(name)

    def _lock(self, store: Store, name: str) -> Digest:
        lock = Lock(
            python="3.2.1",
            implementation=name,
            packages=(Package("numpy", "0.0.1"),),
            wheel=digest_of(b""),
            wheel_name="modelmill-0-py3-none-any.whl",
            needed=("numpy",),
        )
        return store.blobs.put([msgspec.json.encode(lock)])[0]

    def fleet(self, lock: Digest) -> FleetMap:
        """Return a map of which a child process answers, in the packages of a lock."""
        by, entry = ("store",), Entry(("A",), 1, "pickle", "python", lock, 0, 1, lock)
        header = Header(model=NAME, spec=SPEC, by=by, task="regression", code=lock, entry=("m.py", "m"), lock=lock)
        return FleetMap.build(header, [entry])

    def map_of(self, store: Store, lock: Digest) -> tuple[Digest, bytes]:
        signed = sign(store.key, self.fleet(lock))
        return store.blobs.put([signed.content])[0], signed.signature

    def age(self, name: str) -> None:
        """Have it look as if nobody had used an environment for years."""
        os.utime(self.folder / f"{self.locks[name]}.used", (LONG_AGO, LONG_AGO))

    @property
    def there(self) -> set[str]:
        """Return which environments are there."""
        return {name for name, lock in self.locks.items() if (self.folder / lock).exists()}

    def clean(self, *, remove: bool) -> dict[str, str]:
        """Return why each is kept."""
        names, before = {lock: name for name, lock in self.locks.items()}, self.there
        with open_store(self.settings) as store:
            found = list(clean_environments(store, ["prod"], remove=remove))
        assert before - self.there == {names[Digest(one.lock)] for one in found if one.removed}
        return {names[Digest(one.lock)]: one.kept for one in found}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_only_what_nothing_can_need_goes(project: Project) -> None:
    used = Use(project.folder, project.locks["used"])
    project.age("used")
    told = project.clean(remove=False)
    assert project.there == set(ALL)
    assert told == {
        "current": "sales r2 in prod",
        "before": "sales r1 in prod",
        "beside": "sales r3 in prod",
        "shadow": "sales r4 in prod",
        "used": "a process uses it",
        "of late": "used in the last week",
        "nobody's": "",
    }
    assert project.clean(remove=True) == told
    assert project.there == set(ALL) - {"nobody's"}
    used.end()
    project.clean(remove=True)
    assert project.there == set(ALL) - {"nobody's", "used"}


def test_what_a_deploy_has_prepared_stays_until_it_is_published(project: Project) -> None:
    lock = project.locks["nobody's"]
    place = project.folder / lock
    (place / "finished").write_text(_state_of(place))
    with open_store(project.settings) as store:
        with environments_kept(store.folder, store.blobs, project.fleet(lock), no_progress) as made:
            project.age("nobody's")
            assert made == 0
            assert project.clean(remove=True)["nobody's"] == "a process uses it"
            publish(store.pointers, Published("prod", 2, {NAME: Pointer(5, *project.map_of(store, lock))}))
        project.age("nobody's")
        assert project.clean(remove=True)["nobody's"] == "sales r5 in prod"
    assert place.is_dir()


def test_nothing_goes_while_it_is_not_known_what_is_released(project: Project) -> None:
    with open_store(project.settings) as store:
        blobs = store.folder / "blobs"
        blobs.rename(store.folder / "gone")
        assert "cannot be read" in project.clean(remove=True)["nobody's"]
    assert project.there == set(ALL)


def test_fsck_tells_of_them_and_removes_them_where_it_may(project: Project) -> None:
    with open_store(project.settings) as store, store.database.write() as c:
        lock_environment(c, "prod")
    left = project.folder / "host.1.1.0123456789abcdef.tmp"
    left.mkdir()
    os.utime(left, (LONG_AGO, LONG_AGO))
    told = fsck(project.settings, FsckRequest())
    assert (told.checked["environments"], told.next, told.leftovers) == (len(ALL), "modelmill fsck --repair", 1)
    assert sorted(one.kept == "" for one in told.environments) == [False] * 5 + [True] * 2  # `used` by nobody now
    assert "unused    2 package environments that no release needs   0 B beside uv's cache" in list(render(told))
    assert project.there == set(ALL)
    done = fsck(project.settings, FsckRequest(repair=True))
    assert "removed   2 package environments that no release needs   0 B beside uv's cache" in list(render(done))
    assert project.there == set(ALL) - {"nobody's", "used"}
    assert not left.exists()
    assert all(one.kept for one in fsck(project.settings, FsckRequest()).environments)
