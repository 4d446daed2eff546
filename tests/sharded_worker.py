"""One process of a training run in a test, forked from a server that has imported this file once.

Settings: folder, errors (file for stderr), rank, world, meet (file to join through), training (changes to the test's
settings), kill_at (step before which the process dies as by SIGKILL), limit_at (step before which no file may grow
beyond `limit` bytes), gradients (changes to the training, one step each, instead of a run), kd (distil instead).
"""

import json
import os
import resource
import signal
import sys
import traceback
from functools import partial
from pathlib import Path

import torch
import torch._dynamo  # slow to import, and every worker would
import torch.distributed as dist
import torch.distributed.fsdp
from conftest import scrambled, small_config
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from edgegen.errors import EdgegenError
from edgegen.model.elastic import elastic_state, materialize
from edgegen.runs import parallel
from edgegen.train.data.captioned_latents import CaptionedLatents
from edgegen.train.stages import loop
from edgegen.train.stages.kd import KDTraining, Teacher, first_input, train_kd
from edgegen.train.stages.loop import ElasticRun, ElasticTraining, train_elastic

CONFIG = small_config()


def captioned(pictures: int = 5, prompts: int = 7, tokens: int = 6) -> CaptionedLatents:
    """Random latents, each with two captions of random tokens from two encoders."""
    g = torch.Generator().manual_seed(1)
    size = CONFIG.grid[0] * CONFIG.patch
    return CaptionedLatents(
        torch.randn(pictures, CONFIG.in_channels, size, size, generator=g),
        [[1 + m, prompts - 1] for m in range(pictures)],
        torch.randn(prompts, tokens, CONFIG.text_dim, generator=g),
        torch.ones(prompts, tokens),
        tokens // 2,
    )


def training_of(changes: dict, kind: type = ElasticTraining) -> ElasticTraining:
    fixed = dict(steps=6, batch=4, warmup=2, precision="float32", log_every=1, validate_every=3, rate=3e-3)
    return kind(**(fixed | changes))


def one_step(changes: dict, sharded: bool) -> tuple[dict, dict[str, torch.Tensor]]:
    """The numbers and the whole gradients of a step on random weights."""
    training = training_of(changes)
    run = ElasticRun(CONFIG, 0, sharded, training.activation_checkpointing)
    run.model.load_state_dict(scrambled(CONFIG).state_dict())
    if sharded:
        run.shard_()
    losses = loop.step_(run, torch.optim.SGD(run.trained_parameters().values(), lr=0.0), captioned(), training, 0)
    gradients = {name: p.grad for name, p in run.trained_parameters().items() if p.grad is not None}
    assert all(isinstance(gradient, DTensor) == sharded for gradient in gradients.values())
    return losses, {name: parallel.gather(gradient).contiguous() for name, gradient in gradients.items()}


def all_gradients(settings: dict) -> None:
    """Saves the gradients of one sharded step for each of several changes to the training."""
    for index, changes in enumerate(settings["gradients"]):
        losses, gradients = one_step(changes, sharded=True)
        if settings["rank"] == 0:
            save_file(gradients, f"{settings['folder']}-{index}.safetensors", {"losses": json.dumps(losses)})


def whole_run(settings: dict) -> None:
    true_step = loop.step_

    def step(run, optimizer, data, training, step):
        if step == settings.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == settings.get("limit_at"):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (settings["limit"], settings["limit"]))
        return true_step(run, optimizer, data, training, step)

    loop.step_ = step
    loop.RunState = partial(loop.RunState, every_s=0.0)
    folder = Path(settings["folder"])
    if settings.get("kd"):
        distil(folder, settings["training"])
    else:
        train_elastic(captioned(), captioned(), folder, CONFIG, training_of(settings["training"]))


def distil(folder: Path, changes: dict) -> None:
    """A distillation from a random teacher."""
    dit = materialize(scrambled(CONFIG, 5), 1.0)
    teacher = Teacher(dit, dit.final, first_input, dit.config.hidden)
    train_kd(
        captioned(),
        captioned(),
        folder,
        CONFIG,
        training_of(changes, KDTraining),
        elastic_state(scrambled(CONFIG)),
        teacher,
    )


def main(settings: dict) -> None:
    sys.stderr = open(settings["errors"], "w", buffering=1)
    torch.set_num_threads(1)
    try:
        if settings["world"] > 1:
            dist.init_process_group(
                "gloo", init_method=f"file://{settings['meet']}", rank=settings["rank"], world_size=settings["world"]
            )
        (all_gradients if settings.get("gradients") else whole_run)(settings)
        parallel.leave()
    except EdgegenError as error:
        print(error, file=sys.stderr)
        os._exit(error.exit_code)
    except BaseException:
        traceback.print_exc()
        os._exit(70)
