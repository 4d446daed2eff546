"""Attention in blocks: which of a graph's become it, that they compute the same, and that they are counted the same."""

from collections import Counter

import onnx
import pytest
import torch
from torch import nn

from edgegen.capture.deploy import deploy, trace
from edgegen.capture.products import LONG
from edgegen.capture.specialize import specialize
from edgegen.emit import onnx as emit_onnx
from edgegen.emit.onnx_attention import in_blocks_
from edgegen.graph.read_onnx import read_onnx
from edgegen.rewrite.component import Form
from edgegen.runtime.onnx import open_onnx
from edgegen.verify import psnr


class Layer(nn.Module):
    """Attention over its tokens: bare, with a mask of keys or of pairs, or with fewer heads of keys, and any scale."""

    def __init__(self, masked: str, key_heads: int):
        super().__init__()
        self.masked, self.key_heads = masked, key_heads
        self.q, self.k, self.v = (nn.Linear(32, 8 * heads) for heads in (4, key_heads, key_heads))

    def forward(self, x, mask):
        q, k, v = (f(x).unflatten(-1, (-1, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        of_keys = mask[:, None, None]
        bias = {"": None, "keys": of_keys, "truth": of_keys > -1, "pairs": of_keys + mask[:, None, :, None] ** 2}
        more = {"scale": 0.3, "enable_gqa": self.key_heads != 4}
        out = nn.functional.scaled_dot_product_attention(q, k, v, bias[self.masked], **more)
        return out.transpose(1, 2).flatten(2) + mask[..., None]


@pytest.mark.parametrize(
    "masked, key_heads, tokens, in_blocks",
    [("", 4, LONG, True), ("keys", 4, LONG, True), ("truth", 2, LONG + 3, True), ("", 1, LONG, True),
     ("pairs", 4, LONG, False), ("", 4, LONG - 1, False), ("keys", 2, 40, False)],
)  # fmt: skip
def test_attention_to_many_keys_goes_in_blocks(tmp_path, masked, key_heads, tokens, in_blocks):
    torch.manual_seed(0)
    module, path = Layer(masked, key_heads).eval().requires_grad_(False), tmp_path / "layer.onnx"
    feed = {"x": torch.randn(1, tokens, 32), "mask": -3 * torch.rand(1, tokens)}
    feed["mask"][:, -9:] = -1e4
    component = deploy(trace(specialize(module, feed)), Form("batched", operations="fused"))
    expected = module(**feed)
    assert psnr(expected.numpy(), component.module(*[feed[s.name] for s in component.inputs])[0].numpy()) >= 110
    emit_onnx.write(component, path)
    counts = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert (counts["MultiHeadAttention"], counts["Attention"]) == ((1, 0) if in_blocks else (0, 1))
    made = open_onnx(path)({name: value.numpy() for name, value in feed.items()})
    assert psnr(expected.numpy(), made[component.outputs[0].name]) >= 110
    channels = 32 + 32 + 4 * (in_blocks and bool(masked))  # a mask is a channel more a head
    found = [o.macs for o in read_onnx(path).operations if o.type in ("Attention", "MultiHeadAttention")]
    assert found == [tokens * tokens * channels]


def test_other_results_of_attention_keep_it():
    node = onnx.helper.make_node("Attention", ["q", "k", "v"], ["y", "", "", "scores"], q_num_heads=2, kv_num_heads=2)
    causal = onnx.helper.make_node("Attention", ["q", "k", "v"], ["z"], q_num_heads=2, kv_num_heads=2, is_causal=1)
    model = onnx.helper.make_model(onnx.helper.make_graph([node, causal], "g", [], []))
    in_blocks_(model)
    assert {made.op_type for made in model.graph.node} == {"Attention"} and len(model.opset_import) == 1
