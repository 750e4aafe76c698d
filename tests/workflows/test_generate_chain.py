"""What rm.generate and rm.loop do when jobs fail, without running any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from plumpy import ProcessState

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.generate import GenerateWorkChain
from aiida_rm.workflows.loop import LoopWorkChain
from tests.jobs import generated, job_node


@pytest.fixture
def code(aiida_code_installed: Any) -> orm.InstalledCode:
    return aiida_code_installed(label="engine", filepath_executable="/opt/bin/aiida-rm-engine")


@pytest.fixture
def chain(code: Any, potential_data: Any) -> Any:
    """Four structures in two jobs."""
    generate = {"code": code, "potential": potential_data, "settings": {"n_structures": 4}}
    process = instantiate_process(
        get_manager().get_runner(), GenerateWorkChain, generate=generate, n_jobs=2
    )
    assert process.setup() is None
    assert process.ctx.waiting == ["job_000", "job_001"]
    return process


@pytest.fixture
def end(chain: Any, aiida_localhost: Any, tmp_path: Path) -> Any:
    """``end(key, status, frames)``: a job has ended so."""
    retrieved = tmp_path / "retrieved"
    retrieved.mkdir()
    (retrieved / "nothing").write_text("")

    def make(
        key: str, status: int, frames: Frames | None = None, said: dict[str, Any] | None = None
    ) -> None:
        settings = chain.ctx.missing[key]
        node = job_node("generate", aiida_localhost, {"settings": settings}, retrieved)
        if frames is not None:
            output = FramesData(frames)
            output.base.links.add_incoming(node, link_type=LinkType.CREATE, link_label="frames")
            output.store()
        if said is not None:
            told = orm.Dict(said)
            told.base.links.add_incoming(node, link_type=LinkType.CREATE, link_label="results")
            told.store()
        node.set_process_state(ProcessState.FINISHED)
        node.set_exit_status(status)
        node.set_exit_message("as the parser said")
        chain.ctx[key] = node
        chain.ctx.runs[key] = chain.ctx.runs.get(key, 0) + 1
        chain.ctx.waiting = [name for name in chain.ctx.waiting if name != key]
        chain.ctx.launched = [key]
        chain.inspect_jobs()

    return make


def test_all_jobs_good(chain: Any, end: Any, diamond_frames: Frames) -> None:
    two = diamond_frames.select([0, 0])
    end("job_000", 0, generated(two))
    end("job_001", 0, generated(two, first=2))
    assert not chain.should_run_jobs()
    assert chain.gather() is None
    frames = chain.outputs["frames"].get_frames()
    assert frames.structure["index"].tolist() == [0, 1, 2, 3]
    assert chain.outputs["frames"].creator.process_label == "gather_generated"


def test_every_job_gets_the_structures_to_begin_with(
    code: Any,
    potential_data: Any,
    diamond_frames: Frames,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    starts = FramesData(diamond_frames.select([0, 0, 0])).store()
    process = instantiate_process(
        get_manager().get_runner(),
        GenerateWorkChain,
        generate={
            "code": code,
            "potential": potential_data,
            "starts": starts,
            "settings": {"n_structures": 5, "mode": "seeded"},
        },
        n_jobs=2,
    )
    sent = []

    def submit(_: Any, **inputs: Any) -> Any:
        sent.append(inputs)
        return job_node("generate", code.computer, {"settings": inputs["settings"]}, tmp_path)

    monkeypatch.setattr(process, "submit", submit)
    assert process.setup() is None
    process.run_jobs()
    assert [inputs["starts"].uuid for inputs in sent] == [starts.uuid] * 2
    ranges = [(i["settings"]["first_index"], i["settings"]["n_structures"]) for i in sent]
    assert ranges == [(0, 2), (2, 3)]


def test_a_job_that_fails_is_tried_again_then_left_out(
    chain: Any, end: Any, diamond_frames: Frames
) -> None:
    end("job_000", 0, generated(diamond_frames.select([0, 0])))
    end("job_001", 103)
    assert chain.ctx.waiting == ["job_001"]
    end("job_001", 103)
    assert not chain.should_run_jobs()
    code = chain.gather()
    assert code.status == 701
    assert "2 of 4 structures are missing (failed: job_001)" in code.message
    assert len(chain.outputs["frames"]) == 2


def test_impossible_starts_are_named(chain: Any, end: Any, diamond_frames: Frames) -> None:
    end("job_000", 0, generated(diamond_frames.select([0, 0])))
    summary = {"impossible": [3], "why_impossible": "start 3: no room"}
    end("job_001", 0, generated(diamond_frames, first=2), {"summary": summary})
    code = chain.gather()
    assert code.status == 701
    assert "1 of 4 structures are missing (no sensible start was found (start 3" in code.message


@pytest.mark.parametrize("status", [400, 403, 404, 410, 120, 140, 306])
def test_a_job_that_was_cut_short_makes_only_the_rest(
    status: int, chain: Any, end: Any, diamond_frames: Frames
) -> None:
    end("job_000", 0, generated(diamond_frames.select([0, 0])))
    end("job_001", status, generated(diamond_frames, first=3))
    assert chain.ctx.waiting == ["job_001"]
    rest = chain.ctx.missing["job_001"].get_dict()
    assert (rest["indices"], rest["n_structures"]) == ([2], 1)
    assert chain.ctx.missing["job_001"].creator.process_label == "settings_of_missing"
    end("job_001", 0, generated(diamond_frames, first=2), {"summary": {}})
    assert not chain.should_run_jobs()
    assert chain.gather() is None
    frames = chain.outputs["frames"].get_frames()
    assert frames.structure["index"].tolist() == [0, 1, 2, 3]
    assert [*chain.outputs["results"]] == ["job_001_run_002"]


def test_only_jobs_without_progress_count(chain: Any, end: Any, diamond_frames: Frames) -> None:
    end("job_001", 0, generated(diamond_frames.select([0, 0]), first=2))
    end("job_000", 103)
    end("job_000", 400, generated(diamond_frames))
    end("job_000", 400)
    assert chain.ctx.waiting == ["job_000"]
    end("job_000", 400)
    assert not chain.should_run_jobs()
    code = chain.gather()
    assert code.status == 701
    assert "1 of 4 structures are missing (failed: job_000)" in code.message


def test_nothing_is_missing_of_a_job_that_was_killed_at_its_end(
    chain: Any, end: Any, diamond_frames: Frames
) -> None:
    two = diamond_frames.select([0, 0])
    end("job_000", 404, generated(two))
    end("job_001", 0, generated(two, first=2))
    assert not chain.should_run_jobs()
    assert chain.gather() is None


def test_what_is_missing_may_be_impossible(chain: Any, end: Any, diamond_frames: Frames) -> None:
    end("job_000", 404, generated(diamond_frames))
    end("job_001", 0, generated(diamond_frames.select([0, 0]), first=2))
    end("job_000", 205)
    code = chain.gather()
    assert code.status == 701
    assert "1 of 4 structures are missing (no sensible start was found (as the" in code.message


def test_the_hopeless_is_not_tried_again(chain: Any, end: Any) -> None:
    end("job_000", 205)
    end("job_001", 203)
    assert not chain.should_run_jobs()
    code = chain.gather()
    assert code.status == 314
    assert "as the parser said" in code.message
    assert "frames" not in chain.outputs


@pytest.mark.parametrize("n_jobs", [0, 1001])
def test_number_of_jobs(code: Any, potential_data: Any, n_jobs: int) -> None:
    with pytest.raises(ValueError, match="must be between 1 and 1000"):
        instantiate_process(
            get_manager().get_runner(),
            GenerateWorkChain,
            generate={"code": code, "potential": potential_data},
            n_jobs=n_jobs,
        )


def test_a_loop_that_fails_names_the_stage_and_keeps_the_dataset(
    code: Any, diamond_frames: Frames, aiida_localhost: Any, tmp_path: Path
) -> None:
    dataset = FramesData(diamond_frames)
    builder = LoopWorkChain.get_builder_from_protocol(code, dataset)
    loop = instantiate_process(get_manager().get_runner(), builder)
    loop.setup()
    loop.begin_round()
    (tmp_path / "retrieved").mkdir()
    (tmp_path / "retrieved" / "nothing").write_text("")
    node = job_node("perturb", aiida_localhost, {"frames": dataset}, tmp_path / "retrieved")
    node.set_process_state(ProcessState.FINISHED)
    node.set_exit_status(102)
    node.set_exit_message("install it")
    loop.ctx.perturb = node
    exit_code = loop.inspect_perturb()
    assert exit_code.status == 321
    assert "stage 'perturb' of round 1" in exit_code.message
    assert "install it" in exit_code.message
    assert loop.outputs["dataset"].uuid == dataset.uuid


def test_a_loop_that_accepts_nothing_says_so(code: Any, diamond_frames: Frames) -> None:
    dataset = FramesData(diamond_frames)
    builder = LoopWorkChain.get_builder_from_protocol(code, dataset)
    loop = instantiate_process(get_manager().get_runner(), builder)
    loop.setup()
    assert loop.finish().status == 703
    assert loop.outputs["dataset"].uuid == dataset.uuid
