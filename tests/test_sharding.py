"""FSDP2 with real processes: the same gradients and the same loss curve, killed, resumed and reshaped."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import sharded_worker
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from sharded_worker import CONFIG, captioned, one_step, training_of

from edgegen.errors import InputError
from edgegen.model.elastic import ElasticDiT
from edgegen.runs import parallel
from edgegen.runs.run_state import newest, saved_steps
from edgegen.runs.shards import read_note, shard_folders
from edgegen.train.stages.blockwise import BlockwiseElastic
from edgegen.train.stages.elastic import GradientScale, joint_gradients_
from edgegen.train.stages.loop import Batch, ElasticRun, train_elastic
from edgegen.train.stages.results import elastic_result, read_log

SHARD = {"distribution": "shard"}


@pytest.fixture(scope="session", autouse=True)
def server():
    """A process that imports what the workers need once and forks them."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    FORKS.set_forkserver_preload(["sharded_worker"])


FORKS = multiprocessing.get_context("forkserver")


def start(tmp_path: Path, world: int, training: dict, **settings) -> list[tuple[Any, Path]]:
    """Starts the processes of a run in `tmp_path`/run; returns each with the file of its stderr."""
    name = time.monotonic_ns()
    common = {"folder": str(tmp_path / "run"), "world": world, "meet": str(tmp_path / f"meet-{name}")}
    started = []
    for rank in range(world):
        errors = tmp_path / f"errors-{name}-{rank}"
        own = common | {"training": training, "rank": rank, "errors": str(errors)} | settings
        process = FORKS.Process(target=sharded_worker.main, args=(own,))
        process.start()
        started.append((process, errors))
    return started


def finish(started: list[tuple[Any, Path]]) -> list[tuple[int, str]]:
    """Exit code and stderr of each; when one was killed the others, which wait for it, are killed too."""
    while any(process.is_alive() for process, _ in started):
        if any(process.exitcode == -signal.SIGKILL for process, _ in started):
            for process, _ in started:
                process.kill()
        time.sleep(0.02)
    return [(process.exitcode, errors.read_text() if errors.exists() else "") for process, errors in started]


def run_to_end(tmp_path: Path, world: int, training: dict, **settings) -> None:
    for code, errors in finish(start(tmp_path, world, training, **settings)):
        assert code == 0, errors


def curve(folder: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "time"} for row in read_log(folder)]


def assert_same_curve(found: list[dict], wanted: list[dict], tolerance: float = 2e-4) -> None:
    assert [row.keys() for row in found] == [row.keys() for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        for name in one:
            assert one[name] == pytest.approx(other[name], abs=tolerance, rel=tolerance), (one["step"], name)


# gradients


@pytest.mark.parametrize("recompute", [False, True])
def test_running_block_by_block_changes_nothing(recompute):
    torch.manual_seed(0)
    plain, blocks = ElasticDiT(CONFIG, 0), BlockwiseElastic(CONFIG, 0, recompute)
    assert list(dict(plain.named_parameters())) == list(dict(blocks.named_parameters()))
    batch = Batch(*captioned().batch(training_of({}), 0, 0, 1))
    for width in CONFIG.widths:
        outputs = [model(width, *batch.inputs) for model in (plain, blocks)]
        assert torch.equal(*outputs)
        for model, output in zip((plain, blocks), outputs, strict=True):
            model.zero_grad()
            output.square().mean().backward()
        for ours, theirs in zip(blocks.parameters(), plain.parameters(), strict=True):
            assert (ours.grad is None) == (theirs.grad is None)
            assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


def test_checkpointing_keeps_less_for_the_backward_pass():
    batch, kept = Batch(*captioned().batch(training_of({}), 0, 0, 1)), {}
    for recompute in (False, True):
        sizes: list[int] = []
        model = BlockwiseElastic(CONFIG, 0, recompute)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.nbytes) or x, lambda x: x):
            model(0.5, *batch.inputs)
        kept[recompute] = sum(sizes)
    assert kept[True] < 0.2 * kept[False]


STEPS = (
    {"gradient_scale": "grad_ratio"},
    {"gradient_scale": "loss_ratio", "accumulate": 2},
    {"gradient_scale": "none", "activation_checkpointing": True, "full_every": 1},
)


def test_sharded_gradients_are_those_of_one_process(tmp_path):
    run_to_end(tmp_path, 2, {}, gradients=STEPS)
    for index, changes in enumerate(STEPS):
        numbers, alone = one_step({"gradient_scale": changes["gradient_scale"]}, sharded=False)
        path = tmp_path / f"run-{index}.safetensors"
        with safe_open(path, "pt") as file:
            sharded, numbers_sharded = load_file(path), json.loads(file.metadata()["losses"])
        assert alone.keys() == sharded.keys() and numbers == pytest.approx(numbers_sharded, rel=1e-4)
        for name, gradient in alone.items():
            torch.testing.assert_close(sharded[name], gradient, atol=1e-7 + 1e-4 * float(gradient.abs().max()), rtol=0)


def test_a_batch_is_the_same_for_any_number_of_processes():
    data, training = captioned(), training_of({"batch": 12, "drop_encoder": 0.4, "drop_caption": 0.3})
    for step in (0, 7):
        whole = data.batch(training, step, 0, 1)
        for world in (2, 3, 4):
            parts = zip(*(data.batch(training, step, rank, world) for rank in range(world)), strict=True)
            assert all(torch.equal(torch.cat(part), one) for part, one in zip(parts, whole, strict=True))


def test_accumulated_gradients_are_those_of_the_batch_at_once():
    training, results = training_of({"gradient_scale": "grad_ratio"}), []
    for count in (1, 4):
        run = ElasticRun(CONFIG, 0)
        batch = Batch(*captioned().batch(training, 0, 0, 1))
        tasks = [lambda width, part=part, run=run: run.task(width, part) for part in batch.parts(count, "cpu")]
        numbers = joint_gradients_(run.model, run.trained_parameters(), [0.5], tasks, GradientScale("grad_ratio"))
        results.append((numbers, {n: p.grad for n, p in run.trained_parameters().items() if p.grad is not None}))
    (numbers, once), (numbers_parts, parts) = results
    assert numbers == pytest.approx(numbers_parts, rel=1e-4)
    for name, gradient in once.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-7 + 1e-4 * float(gradient.abs().max()), rtol=0)


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "world_size", lambda: 3)
    with pytest.raises(InputError, match="batch 4 does not divide among 3 processes of 1 passes. Use --set batch=3"):
        train_elastic(captioned(), captioned(), tmp_path / "run", CONFIG, training_of({}))
    assert not list(tmp_path.iterdir())


# killed and resumed


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> list[dict]:
    """The loss curve of one process that nobody stops."""
    folder = tmp_path_factory.mktemp("unbroken")
    train_elastic(captioned(), captioned(), folder, CONFIG, training_of({}))
    return curve(folder)


def check_shards(run: Path) -> None:
    """One state is kept; each process wrote its own part of it."""
    (folder,) = shard_folders(run)
    assert read_note(folder)["processes"] == 2 and read_note(folder)["step"] == saved_steps(run)
    config, state = elastic_result(run)  # what `edgegen train assemble` reads while the run goes on
    assert config == CONFIG and not torch.equal(state["patch.weight"], torch.zeros_like(state["patch.weight"]))
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert len(sizes) == 2 and max(sizes) < 0.6 * sum(sizes)


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2)])
def test_a_killed_run_resumed_by_other_processes_has_the_curve_of_an_unbroken_one(tmp_path, unbroken, before, after):
    step = random.randrange(2, 6)
    print(f"killed before step {step}")  # shown when the test fails
    ended = finish(start(tmp_path, before, SHARD, kill_at=step))
    assert -signal.SIGKILL in [code for code, _ in ended]
    run = tmp_path / "run"
    assert saved_steps(run) in (step, step - 1) and newest(run).is_dir() == (before == 2)
    if before == 2 and saved_steps(run):
        check_shards(run)
    if after == 1:
        train_elastic(captioned(), captioned(), run, CONFIG, training_of(SHARD))
    else:
        run_to_end(tmp_path, after, SHARD)
    assert_same_curve(curve(run), unbroken)
    assert saved_steps(run) == 6 and not list(run.glob("*.partial"))
    assert (run / "state.safetensors").is_file()  # whole, for other stages, whoever trained it
    assert after == 1 or not list(run.glob("shards-*"))


def test_a_sharded_distillation_has_the_curve_of_one_process(tmp_path):
    training = {"steps": 2, "teacher": "given", "gradient_scale": "none"}
    sharded_worker.distil(tmp_path / "a" / "run", training)
    (tmp_path / "b").mkdir()
    run_to_end(tmp_path / "b", 2, training | SHARD, kd=True)
    assert_same_curve(curve(tmp_path / "b" / "run"), curve(tmp_path / "a" / "run"))
    one, other = (load_file(tmp_path / name / "run" / "state.safetensors") for name in "ab")
    assert one.keys() == other.keys() and {name: x.shape for name, x in one.items()} == {
        name: x.shape for name, x in other.items()
    }


@pytest.mark.parametrize("world", [1, 2])
def test_a_full_disk_stops_the_run_and_keeps_the_last_state(tmp_path, unbroken, world):
    ended = finish(start(tmp_path, world, SHARD, limit_at=3, limit=200_000))
    assert [code for code, _ in ended] == [1] * world
    assert all("is full" in errors and "step 3 is kept" in errors and "Traceback" not in errors for _, errors in ended)
    run = tmp_path / "run"
    assert saved_steps(run) == 3 and not list(run.glob("*.tmp")) and not list(run.glob("*.partial"))
    run_to_end(tmp_path, world, SHARD)  # there is room again
    assert_same_curve(curve(run), unbroken)


def test_a_state_of_another_configuration_is_refused_by_name(tmp_path):
    train_elastic(captioned(), captioned(), tmp_path, CONFIG, training_of({"steps": 1}))
    other = type(CONFIG)(**(CONFIG.to_dict() | {"radius": 2}))
    with pytest.raises(InputError, match="model.radius 1, not 2"):
        train_elastic(captioned(), captioned(), tmp_path, other, training_of({"steps": 1}))
