"""The frozen encoders that a transformer is trained with: this run's own stages, or those of a checkpoint."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from edgegen.model.autoencoder import Autoencoder, AutoencoderConfig
from edgegen.model.checkpoint import Checkpoint, bundled_folder, load_checkpoint, make_tokenizers
from edgegen.model.text import TextConfig, TextEncoders, Tokenizers
from edgegen.runs import parallel
from edgegen.runs.run_state import saved_steps
from edgegen.train.stages.results import NOTHING, as_shipped_, autoencoder_result, read_state, text_result

BUNDLED = "bundled"


@dataclass(frozen=True)
class Frozen:
    """The autoencoder and the text encoders, rounded to fp16 as they are shipped, with their tokenizer files."""

    autoencoder_config: AutoencoderConfig
    autoencoder: Autoencoder
    text_config: TextConfig
    text: TextEncoders
    tokenizer_files: dict[str, bytes]

    @property
    def tokenizers(self) -> Tokenizers:
        return make_tokenizers(self.tokenizer_files)


def open_source(source: str) -> Checkpoint:
    """The checkpoint in a folder, or the bundled one for "bundled". Raises InputError where there is none."""
    return load_checkpoint(bundled_folder() if source == BUNDLED else source)


def load_frozen(runs_dir: Path, encoders: str = "") -> Frozen:
    """Those of the checkpoint `encoders`, a folder or "bundled"; "": of the runs, or where there are none, bundled."""
    if uses_runs(runs_dir, encoders):
        return frozen_of_runs(runs_dir)
    if not encoders and parallel.rank() == 0:
        print(f"{runs_dir} has no autoencoder and no text run: the bundled encoders are used.", file=sys.stderr)
    checkpoint = open_source(encoders or BUNDLED)
    autoencoder = Autoencoder(checkpoint.encoder(), checkpoint.decoder()).eval()
    return Frozen(
        checkpoint.config.autoencoder,
        autoencoder,
        checkpoint.config.text,
        checkpoint.text_encoders(),
        dict(checkpoint.tokenizer_files),
    )


def uses_runs(runs_dir: Path, encoders: str) -> bool:
    """Whether the frozen encoders are the runs' own."""
    return not encoders and any((runs_dir / stage).exists() for stage in ("autoencoder", "text"))


def encoders_of(run_dir: Path) -> str:
    """What `data.encoders` an elastic run was started with."""
    path = run_dir / "recipe.json"
    return json.loads(path.read_text(encoding="utf-8")).get("data", {}).get("encoders", "") if path.is_file() else ""


def frozen_of_runs(runs_dir: Path) -> Frozen:
    """The results of the stages `autoencoder` and `text`; text that began as a checkpoint's keeps its autoencoder."""
    begun = text_start(runs_dir)
    if begun:
        found = load_frozen(runs_dir, begun)
        picture_config, autoencoder = found.autoencoder_config, found.autoencoder
    else:
        picture_config, autoencoder = autoencoder_result(runs_dir / "autoencoder")
    text_config, text, files = text_result(runs_dir / "text")
    return Frozen(picture_config, as_shipped_(autoencoder), text_config, as_shipped_(text), files)


def text_start(runs_dir: Path) -> str:
    """The checkpoint that the text encoders began as, where there is no autoencoder run; "" where they did not."""
    if (runs_dir / "autoencoder").exists() or not saved_steps(runs_dir / "text"):
        return ""
    return read_state(runs_dir / "text", NOTHING).settings["training"].get("start", "")
