"""Foreign networks recorded and written in every form compute what they computed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import FAMILIES, OTHERS, flux, lumina2, pixart, qwen_image, sana, sd3, source, z_image
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgegen.capture.deploy import Deployed, deploy, trace
from edgegen.capture.passes import lessened, rms_norm
from edgegen.capture.specialize import specialize
from edgegen.capture.values import plain, reshaped
from edgegen.emit import coreml
from edgegen.errors import InputError
from edgegen.foreign.export import Recorded, record
from edgegen.foreign.palettes import palettize_recorded
from edgegen.foreign.source import varied
from edgegen.lint import lint
from edgegen.rewrite.component import Form
from edgegen.runtime.coreml import CoreMLProgram
from edgegen.verify import psnr

FORMS = (Form("split", query_chunk=8), Form("batched"), Form("batched", operations="fused"))
ALL = {name: make() for name, make in FAMILIES.items()} | {
    "pixart_alpha": pixart(sigma=False), "sana_sprint": sana(sprint=True), "sd3_small": sd3(large=False),
} | OTHERS  # fmt: skip
ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
EXACT_DB = 115.0  # fp32 in another order of additions


def worst(recorded: Recorded, form: Form) -> float:
    """The lowest PSNR over fresh inputs and outputs."""
    component = deploy(recorded.traced, form)
    found = []
    for case in recorded.cases:
        made = component.module(*[torch.from_numpy(case.feed[spec.name]) for spec in component.inputs])
        for spec, value in zip(component.outputs, made, strict=True):
            found.append(psnr(case.expected[spec.name], value.numpy()))
    return min(found)


@pytest.fixture(scope="module")
def recordings() -> dict[str, Recorded]:
    return {}


def recording(known: dict[str, Recorded], name: str) -> Recorded:
    if name not in known:
        known[name] = record(source(*ALL[name]))
    return known[name]


@pytest.mark.parametrize("name", ALL)
def test_every_form_computes_the_network(recordings, name):
    """On fresh latents, text, masks and timesteps; nothing but the network's own decides."""
    recorded = recording(recordings, name)
    assert len(recorded.cases) == 3
    for form in FORMS:
        assert worst(recorded, form) >= EXACT_DB, form


@pytest.mark.parametrize("name", ALL)
def test_no_operation_lacks_a_layout(recordings, name):
    for form in FORMS:
        module = deploy(recording(recordings, name).traced, form).module
        assert isinstance(module, Deployed) and not module.unknown


@pytest.mark.parametrize("name", [name for name in ALL if name not in OTHERS])
def test_weights_keep_their_names(recordings, name):
    """Every matrix of a layer is a layer of the same name in the deployed network, in both layouts."""
    recorded = recording(recordings, name)
    own = {n for n, m in recorded.source.module.named_modules() if isinstance(m, nn.Linear)}
    for form in FORMS[:2]:
        made = {
            n: m
            for n, m in deploy(recorded.traced, form).module.named_modules()
            if isinstance(m, nn.Linear | nn.Conv2d)
        }
        assert len(own & made.keys()) >= 0.9 * len(own) > 4
        for name_ in own & made.keys():
            weight = recorded.source.module.get_submodule(name_).weight
            assert torch.equal(made[name_].weight.flatten(), weight.flatten())


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(sorted(FAMILIES)), heads=st.integers(1, 3), layers=st.integers(1, 2),
    height=st.sampled_from((4, 8, 12)), width=st.sampled_from((4, 8)), tokens=st.integers(2, 9),
    form=st.sampled_from(FORMS),
)  # fmt: skip
def test_random_configurations(name, heads, layers, height, width, tokens, form):
    heads = {"pixart": 3, "lumina_next": 2 * heads}.get(name, heads)
    recorded = record(source(*FAMILIES[name](heads=heads, layers=layers), height, width, tokens))
    assert worst(recorded, form) >= EXACT_DB


def test_sinusoids_are_told_by_frequencies(recordings):
    """The manifest's cosines and sines are the network's features."""
    for name in ("pixart", "flux", "z_image"):
        for made in recording(recordings, name).traced.sinusoids:
            t = torch.tensor([0.37])
            angles = np.array(made.definition["frequencies"]) * 0.37
            parts = {"cos": np.cos(angles), "sin": np.sin(angles)}
            told = np.concatenate([parts[key] for key in made.definition["order"].split(",")])
            assert np.abs(told - made(t).numpy().ravel()).max() < 1e-4


class Reads(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x


class Bakes(nn.Module):
    def forward(self, x):
        return x * float(x.detach().abs().max() > -1) + len(self.log(x))

    def log(self, x):
        return x.tolist()


@pytest.mark.parametrize("module", [Reads(), Bakes()])
def test_reading_a_value_is_an_error_that_names_the_line(module):
    with pytest.raises(InputError, match=r"test_capture.py:\d+"):
        specialize(module, {"x": torch.randn(1, 4)})


def test_a_constant_input_may_be_read():
    class Chooses(nn.Module):
        def forward(self, x, flag):
            return x * 2 if flag.item() else x

    recording = specialize(Chooses(), {"x": torch.ones(1, 4), "flag": torch.tensor(True)}, ("flag",))
    assert torch.equal(recording.graph(torch.full((1, 4), 3.0))[0], torch.full((1, 4), 6.0))


def test_writes_into_constants_are_recorded():
    class Fills(nn.Module):
        def forward(self, x):
            out = torch.zeros(1, 6)
            out[:, 2:] = x
            out[:, :1] += 1
            return out

    traced = trace(specialize(Fills(), {"x": torch.ones(1, 4)}))
    for form in FORMS:
        made = deploy(traced, form).module(torch.arange(4.0)[None])[0]
        assert made.tolist() == [[1.0, 0.0, 0.0, 1.0, 2.0, 3.0]]


class Attends(nn.Module):
    """Grouped queries, a causal mask, and attention written out as products, as text encoders have it."""

    def __init__(self, written: bool):
        super().__init__()
        self.written = written
        self.q, self.k, self.v = nn.Linear(24, 24), nn.Linear(24, 12), nn.Linear(24, 12)

    def forward(self, x, mask):
        q = self.q(x).unflatten(-1, (4, 6)).transpose(1, 2)
        k, v = (f(x).unflatten(-1, (2, 6)).transpose(1, 2) for f in (self.k, self.v))
        if self.written:
            k, v = (t.repeat_interleave(2, 1) for t in (k, v))
            bias = (1 - mask[:, None, None]) * -10000.0
            out = torch.matmul((torch.matmul(q, k.transpose(-1, -2)) * 0.3 + bias).softmax(-1), v)
        else:
            out = (
                nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                * mask[:, None, :, None]
            )
        return out.transpose(1, 2).flatten(2)


class Capped(nn.Module):
    """Attention of tokens with themselves whose scores are bent before the softmax, and every pair of tokens."""

    def forward(self, x):
        scores = torch.tanh(x @ x.transpose(-1, -2) / 5)
        return (scores + scores.triu()).softmax(-1) @ x + (x[:, :, None] * x[:, None]).sum(2)


def test_tokens_along_both_sides_of_a_product():
    x = torch.randn(1, 7, 12, generator=torch.Generator().manual_seed(0))
    traced = trace(specialize(Capped(), {"x": x}))
    for form in FORMS:
        made = deploy(traced, form).module(x)[0]
        assert psnr(Capped()(x).numpy(), made.numpy()) >= EXACT_DB


class Linear(nn.Module):
    """Linear attention in which the divisor of some tokens is zero."""

    def forward(self, x):
        q, k, v = torch.relu(x), torch.relu(x), torch.cat([x, torch.ones_like(x[:, :1])], 1)  # (B, E, S)
        sums = v @ k.transpose(-1, -2) @ q
        return sums[:, :-1] / (sums[:, -1:] + 1e-15)


def test_linear_attention_never_divides_zero_by_zero(tmp_path):
    """Not in fp16 either, and sums over tokens stay within it."""
    x = 12 * torch.randn(1, 8, 512, generator=torch.Generator().manual_seed(0))
    x[:, :, :3] = -x[:, :, :3].abs()
    expected, traced = Linear()(x), trace(specialize(Linear(), {"x": x}))
    for form in FORMS:
        assert psnr(expected.numpy(), deploy(traced, form).module(x)[0].numpy()) >= 90
    component = deploy(traced, Form("split"))
    coreml.write(component, tmp_path / "linear.mlpackage")
    program = CoreMLProgram.load(tmp_path / "linear.mlpackage")
    made = program.run({"x": x.numpy().astype(np.float16)}, fp16=True)[component.outputs[0].name]
    assert psnr(expected.numpy(), made) >= 50


@pytest.mark.parametrize("written", [False, True])
def test_attention_in_its_other_shapes(written):
    torch.manual_seed(0)
    module = Attends(written).eval()
    x, mask = torch.randn(2, 10, 24), torch.ones(2, 10)
    mask[0, 7:] = mask[1, 5:] = 0
    traced = trace(specialize(module, {"x": x, "mask": mask}))
    with torch.no_grad():
        expected = module(x, mask).numpy()
    for form in FORMS:
        assert psnr(expected, deploy(traced, form).module(x, mask)[0].detach().numpy()) >= EXACT_DB


@given(st.lists(st.sampled_from((1, 2, 3, 4, 6)), min_size=1, max_size=4), st.randoms())
def test_a_reshape_that_moves_nothing_reads_the_same(shape, random):
    """Whatever shape a value is read in, its data is that of the tensor in that shape."""
    total = int(np.prod(shape))
    divisors = [d for d in range(1, total + 1) if total % d == 0]
    first = random.choice(divisors)
    new = [first, total // first]
    value = reshaped(plain(torch.arange(total).reshape(shape), shape), new)
    if value is not None:
        assert value.shape == new
        assert [atom for dim in value.dims for atom in dim] == [atom for axis in value.axes for atom in axis]


def test_fresh_inputs_differ_in_kind_preserving_ways():
    given = {
        "x": torch.full((1, 4), 5.0),
        "mask": torch.ones(1, 8, dtype=torch.long),
        "t": torch.tensor([500]),
        "keep": torch.ones(2),
    }
    made = [varied(given, seed, ("keep",)) for seed in range(6)]
    assert all(torch.equal(m["keep"], given["keep"]) for m in made)
    assert len({int(m["mask"].sum()) for m in made}) > 1 and all(m["mask"].max() <= 1 for m in made)
    assert all(0 <= int(m["t"]) <= 500 for m in made) and len({int(m["t"]) for m in made}) > 1
    assert not torch.equal(made[0]["x"], made[1]["x"])


def test_a_mask_of_a_constant_and_an_input_leaves_out_what_it_says():
    """Z-Image's: the picture always counts, of the caption a part; booleans joined are still no numbers to add."""
    recorded = record(source(*z_image(), 16, 8, 96))
    assert len({int(case.feed["cap_kept"].sum()) for case in recorded.cases}) > 1
    for form in FORMS:
        component = deploy(recorded.traced, form)
        for case in recorded.cases:
            with torch.no_grad():
                (made,) = component.module(*(torch.from_numpy(case.feed[spec.name]) for spec in component.inputs))
            assert psnr(case.expected[component.outputs[0].name], made.numpy()) >= EXACT_DB


class Frames(nn.Module):
    """Convolutions over frames, and a norm along channels, as networks for videos have them."""

    def __init__(self, padding=0, stride=1, dilation=1, groups=1):
        super().__init__()
        self.conv = nn.Conv3d(4, 6, 3, stride, padding, dilation, groups if groups == 1 else 2)
        self.padded = padding == 0

    def forward(self, x):
        x = nn.functional.pad(x, (1, 1, 2, 2, 2, 0)) if self.padded else x
        return nn.functional.normalize(self.conv(x), dim=1) * 3.0


@pytest.mark.parametrize(
    ("settings", "frames", "flat"),
    [({}, 1, True), ({"padding": 1}, 1, True), ({"padding": 2, "dilation": 2, "groups": 2}, 1, True),
     ({"padding": (1, 0, 1), "stride": (1, 2, 1)}, 1, True), ({}, 2, False), ({"padding": 1, "stride": 2}, 3, False)],
)  # fmt: skip
def test_of_a_video_of_one_frame_the_picture_is_convolved(settings, frames, flat):
    torch.manual_seed(0)
    module, x = Frames(**settings).eval(), torch.randn(1, 4, frames, 9, 8)
    traced = trace(specialize(module, {"x": x}))
    targets = [node.target for node in traced.graph.graph.nodes]
    assert (torch.ops.aten.conv3d.default in targets) is not flat and rms_norm in targets
    with torch.no_grad():
        for form in FORMS:
            made = deploy(traced, form).module(x)[0]
            assert psnr(module(x).numpy(), made.numpy()) >= EXACT_DB
        if flat:
            place = settings.get("padding", 2)
            place = (place if isinstance(place, int) else place[0]) // settings.get("dilation", 1)
            assert torch.equal(deploy(traced, FORMS[0]).module.conv.weight, module.conv.weight[:, :, place])


DEEP_ENOUGH = {  # layers from which moves of inputs and outputs are within two an attention layer; two where not here
    "sd3": sd3(layers=3), "flux": flux(layers=2), "qwen_image": qwen_image(layers=4), "sana": sana(layers=4),
    "lumina2": lumina2(layers=3), "z_image": z_image(layers=3),
}  # fmt: skip


def calls(recorded: Recorded, target: Any) -> int:
    return sum(node.target is target for node in recorded.traced.graph.graph.nodes)


def moves(path: Path) -> int:
    """Transposes and reshapes of a saved program that touch the innermost axis."""
    return sum(finding.rule == "ANE008" for finding in lint(path))


@pytest.mark.parametrize("name", FAMILIES)
def test_core_ml_programs_move_little(recordings, name, tmp_path):
    """One move of the innermost axis an attention layer (its keys), one for each input and the output, two around a
    convolution over the grid within a layer; and no fp32.
    """
    recorded = recording(recordings, name)
    component = deploy(recorded.traced, Form("split"))
    path = tmp_path / "network.mlpackage"
    coreml.write(component, path)
    program = CoreMLProgram.load(path)
    layers, linear = calls(recorded, ATTENTION), calls(recorded, lessened)
    around_grids = 2 * linear  # SANA's feed-forward layers, one for each linear attention
    ends = len(component.inputs) - 1 + len(component.outputs)  # timestep features lie as they are read
    ends += name == "lumina2"  # the mask of its caption alone, and that with the picture
    assert layers > 1 and moves(path) <= layers + ends + around_grids
    assert name in DEEP_ENOUGH or moves(path) <= 2 * (layers + linear)
    counts, products = program.operation_counts(), {"linear"} if name == "sana" else {"linear", "matmul"}
    assert {"einsum", "conv"} <= counts.keys() and not products & counts.keys()
    assert not any("32" in info.dtype and "int" not in info.dtype for op in program.operations() for info in op.outputs)
    feed = {s.name: recorded.cases[0].feed[s.name].astype(np.float16) for s in component.inputs}
    (output,) = component.outputs
    assert psnr(recorded.cases[0].expected[output.name], program.run(feed, fp16=True)[output.name]) >= 60


@pytest.mark.parametrize("name", DEEP_ENOUGH)
def test_no_more_than_two_moves_an_attention_layer(name, tmp_path):
    """Everything counted, in the saved program."""
    recorded = record(source(*DEEP_ENOUGH[name]))
    coreml.write(deploy(recorded.traced, Form("split")), tmp_path / "network.mlpackage")
    layers = calls(recorded, ATTENTION) + calls(recorded, lessened)  # and linear attention
    assert layers > 1 and moves(tmp_path / "network.mlpackage") <= 2 * layers


@pytest.mark.parametrize("name", FAMILIES)
def test_4_3_bits_run_through_on_every_family(recordings, name):
    """The palettized network is the same in every form, under the names of the network's own parameters."""
    recorded = recording(recordings, name)
    made = palettize_recorded(recorded, 4.3, candidates=(4, 8))
    own = {n for n, _ in recorded.source.module.named_parameters()}
    assert 4 <= made.bits <= 4.3 and len(made.weights) > 4 and made.weights.keys() <= own
    assert 10 < made.psnr_db < 100
    for form in FORMS:
        assert worst(made.recorded, form) >= EXACT_DB
