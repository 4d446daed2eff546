"""Shared helpers: small configurations that exercise every part, and the measure all comparisons use."""

import importlib.util

import numpy as np
import pytest
import torch

from edgegen.errors import EdgegenError
from edgegen.model.config import DiTConfig
from edgegen.model.elastic import ElasticDiT

torch.set_num_threads(1)
EXTRAS = {  # whose absence skips a test that needs it
    "resvg_py": "train", "peft": "train", "diffusers": "train", "tensorboard": "train", "pyarrow": "data",
    "pillow_heif": "data", "matplotlib": "bench",
}  # fmt: skip


def missing_extra(error: BaseException | None) -> str:
    """The extra without which a test failed, or nothing: its module is named and is not installed."""
    while error is not None:
        for module, extra in EXTRAS.items():
            named = getattr(error, "name", None) == module or f"edgegen[{extra}]" in str(error)
            if isinstance(error, ImportError | EdgegenError) and named and not is_installed(module):
                return extra
        error = error.__cause__ or error.__context__
    return ""


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # kept from being imported
        return False


def skip_without_extra(error: BaseException) -> None:
    if extra := missing_extra(error):
        pytest.skip(f"needs the extra [{extra}]")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    try:
        return (yield)
    except Exception as error:
        skip_without_extra(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    try:
        return (yield)
    except Exception as error:
        skip_without_extra(error)
        raise


def decibels(reference, value) -> float:
    """PSNR with the reference's range as peak; fails on anything that is not finite."""
    reference, value = (
        np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, np.float64) for x in (reference, value)
    )
    assert reference.shape == value.shape and reference.size
    assert np.isfinite(reference).all() and np.isfinite(value).all()
    assert np.ptp(reference) > 0
    error = np.square(reference - value).mean()
    return float("inf") if error == 0 else float(10 * np.log10(np.ptp(reference) ** 2 / error))


def small_config(**changes) -> DiTConfig:
    """Two sub-widths, three stages, ASSA, long skips, grouped keys; a hundred thousand parameters."""
    settings = dict(
        hidden=64,
        head_dim=8,
        depths=(1, 3, 1),
        ffn_ratios=(2, 2, 2),
        blocks=4,
        radius=1,
        queries_per_kv=2,
        cross_kv_heads=2,
        text_dim=24,
        pooled_text=True,
        in_channels=4,
        grid=(8, 8),
        time_features=16,
        rope_theta=100.0,
        widths=(0.5, 1.0),
    )
    return DiTConfig(**(settings | changes))


def scrambled(config: DiTConfig, seed: int = 0) -> ElasticDiT:
    """A supernet whose every parameter is random, so that no zero initialization hides a mistake."""
    model = ElasticDiT(config, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def random_inputs(
    config: DiTConfig, batch: int = 2, grid: tuple[int, int] | None = None, tokens: int = 7, seed: int = 0
):
    """latent, t, text, mask (the last token of each row but the first masked), pooled."""
    g = torch.Generator().manual_seed(seed)
    grid = grid or config.grid
    mask = torch.ones(batch, tokens)
    mask[:, tokens - tokens // 3 :] = 0
    return (
        torch.randn(batch, config.in_channels, grid[0] * config.patch, grid[1] * config.patch, generator=g),
        torch.rand(batch, generator=g),
        torch.randn(batch, tokens, config.text_dim, generator=g),
        mask,
        torch.randn(batch, config.text_dim, generator=g) if config.pooled_text else None,
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)
