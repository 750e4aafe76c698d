"""``aiida-rm clean`` and `clean_workdir`: folders that are not theirs to remove."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import ProcessState
from click.testing import CliRunner

from aiida_rm.cli import aiida_rm
from aiida_rm.cli.clean import find
from aiida_rm.cli.data.frames import frames
from aiida_rm.workflows.common import CleaningMixin


@pytest.fixture
def make_job(aiida_localhost: Any) -> Any:
    """Store a job that has ended, with its folder."""

    def make(path: str, caller: Any = None, source: Any = None) -> orm.CalcJobNode:
        job = orm.CalcJobNode(computer=aiida_localhost)
        job.set_process_type("aiida.calculations:rm.train")
        job.set_process_state(ProcessState.FINISHED)
        if caller is not None:
            job.base.links.add_incoming(caller, LinkType.CALL_CALC, "train")
        job.store()
        if source is not None:
            job.base.extras.set(job.base.caching.CACHED_FROM_KEY, source.uuid)
        remote = orm.RemoteData(remote_path=path, computer=aiida_localhost)
        remote.base.links.add_incoming(job, LinkType.CREATE, "remote_folder")
        remote.store()
        return job

    return make


def found() -> set[int]:
    return {folder.job for folder in find((), None, None, finished=False)}


def test_folders_of_others_stay(make_job: Any) -> None:
    running = orm.WorkChainNode()
    running.set_process_state(ProcessState.RUNNING)
    running.store()
    source = make_job("/a")
    make_job("/a", source=source)
    make_job("/a")  # from an archive that lost the mark
    assert found() == {source.pk}
    busy = make_job("/b", caller=running)
    make_job("/b", source=busy)
    mine = make_job("/c")
    make_job("/c", caller=running, source=mine)
    assert found() == {source.pk}
    running.set_process_state(ProcessState.FINISHED)
    assert found() == {source.pk, busy.pk, mine.pk}


def test_days_beyond_the_calendar(aiida_profile: Any) -> None:
    for group, command in ((aiida_rm, ["clean", "--older-than"]), (frames, ["list", "-p"])):
        result = CliRunner().invoke(group, [*command, "99999999"])
        assert result.exit_code == 2
        assert "99999999 is not in the range 0<=x<=36500" in result.stderr


def test_a_chain_removes_what_its_jobs_made(make_job: Any, monkeypatch: Any) -> None:
    class Ending:
        def on_terminated(self) -> None:
            """As of a process."""

    class Chain(CleaningMixin, Ending):
        pass

    own = make_job("/own")
    cached = make_job("/other", source=make_job("/other"))
    chain = Chain()
    chain.inputs = SimpleNamespace(clean_workdir=orm.Bool(True))
    chain.node = SimpleNamespace(called_descendants=[own, cached])
    removed: list[str] = []
    clean = lambda self: removed.append(self.get_remote_path())  # noqa: E731
    monkeypatch.setattr(orm.RemoteData, "_clean", clean)
    chain.on_terminated()
    assert removed == ["/own"]
