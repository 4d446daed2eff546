"""What `pipeline` of a manifest of format 2 says of a diffusers pipeline: what an app needs beside the programs.

Every field may be missing: older bundles have none, and a lone network has no pipeline. Keys are those of diffusers'
own configurations where it has one for the thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from edgegen.errors import InputError
from edgegen.schema import OneOf, Range, Sha256, Size, from_values

BLOCKS = 256  # of text
Word = Annotated[str, Size(0, 256)]
Long = Annotated[str, Size(0, 2**16)]  # a prompt's instruction; SANA's has 1,500 characters
Count = Annotated[int, Range(0, 2**24)]
Numbers = Annotated[tuple[float, ...], Size(0, 2**12)]
Maybe = float | None
Span = tuple[Count, Count | None]  # first, and the one after the last: None is wherever a prompt's tokens end
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Scheduler:
    """A scheduler's class, and of its configuration, with the defaults of its class, what says how it samples."""

    class_: Word
    prediction_type: Word = ""
    num_train_timesteps: Count = 0
    shift: Maybe = None
    use_dynamic_shifting: bool = False
    base_shift: Maybe = None
    max_shift: Maybe = None
    base_image_seq_len: Count = 0
    max_image_seq_len: Count = 0
    time_shift_type: Word = ""
    shift_terminal: Maybe = None
    invert_sigmas: bool = False
    stochastic_sampling: bool = False
    use_flow_sigmas: bool = False
    flow_shift: Maybe = None
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    use_lu_lambdas: bool = False
    beta_start: Maybe = None
    beta_end: Maybe = None
    beta_schedule: Word = ""
    algorithm_type: Word = ""
    solver_order: Count = 0
    solver_type: Word = ""
    lower_order_final: bool = False
    euler_at_final: bool = False
    final_sigmas_type: Word = ""
    timestep_spacing: Word = ""
    steps_offset: Count = 0
    rescale_betas_zero_snr: bool = False
    thresholding: bool = False
    sigma_data: Maybe = None


@dataclass(frozen=True)
class Sampling:
    """A pipeline's own number of steps and guidance (1 for none), and what its scheduler then counts at the bundle's
    resolution: `timesteps`, and `sigmas` where it has noise levels.
    """

    steps: Count = 0
    guidance_scale: Annotated[float, Range(0, 1000)] = 1.0
    init_noise_sigma: Maybe = None  # that the scheduler has noise multiplied by
    timesteps: Numbers = ()
    sigmas: Numbers = ()


@dataclass(frozen=True)
class Latents:
    """What a decoder is given: latents * scale + shift, of all channels or of each; `of` says whether of latents as the
    decoder has them or as the transformer has them packed.
    """

    packing: Word
    scale: Numbers
    shift: Numbers
    of: Annotated[str, OneOf(("unpacked", "packed"))] = "unpacked"


@dataclass(frozen=True)
class Prompting:
    """A tokenizer: its `tokenizer.json` inside the bundle, if it has one, and what it is given: `before`, the prompt
    (in small letters with `lowercase`), `after`; cut to `max_length` tokens, and filled to as many or, with "longest",
    only to a multiple.
    """

    class_: Word
    path: Word = ""
    sha256: Sha256 = "0" * 64
    bytes: Annotated[int, Range(0, 2**40)] = 0
    before: Long | None = None  # None: nothing of the kind was seen
    after: Long | None = None
    lowercase: bool = False
    padding: Annotated[str, OneOf(("max_length", "longest", "none"))] = "none"
    padding_side: Annotated[str, OneOf(("left", "right"))] = "right"
    multiple_of: Count = 0
    max_length: Count = 0
    add_special_tokens: bool = True


@dataclass(frozen=True)
class TextBlock:
    """A part of a text that the transformer is given: `tokens` of an encoder's `output` lie `at` this token and from
    this feature on in `input`; without tokens it is one vector. What no block names is zero.
    """

    input: Word
    encoder: Word
    output: Word
    features: tuple[Count, Count]
    tokens: Span | None = None
    at: Count = 0


@dataclass(frozen=True)
class PipelineFields:
    """The fields of `pipeline` beside `kind` and `networks`."""

    class_: Word = ""
    scheduler: Scheduler | None = None
    sampling: Sampling | None = None
    latents: Latents | None = None
    tokenizers: Annotated[dict[str, Prompting], Size(0, 16)] = field(default_factory=dict)
    text: Annotated[tuple[TextBlock, ...], Size(0, BLOCKS)] = ()


@dataclass(frozen=True)
class NetworkFields:
    """What the entry of a network says of how its pipeline calls it (Family.to_dict); formulas are told by their text.

    x: latents, t: an entry of the scheduler's timesteps; timestep, input, output: what the network takes and gives;
    other names are the scheduler's. `noise`, of normal numbers x, is what latents begin with; `final`, of the last
    latents x, is decoded.
    """

    class_: Word = ""
    family: Word = ""
    prediction: Word = ""  # what the scheduler takes `predicted` for
    sampler: Word = ""
    guidance: Annotated[str, OneOf(("", "batch", "embedded", "none"))] = ""
    guided: Word = ""  # what a batch makes of the outputs `with_prompt` and `without`, by the guidance's `scale`
    guidance_channels: Count = 0  # the first so many are guided, the rest is of the prompt alone; 0: all
    guidance_norm: Word = ""  # along which the guided prediction gets the norm of the unguided
    packing: Word = ""
    timestep: Word = ""
    input: Word = ""
    predicted: Word = ""
    noise: Word = ""
    final: Word = ""
    learned_sigma: bool = False  # the second half of the output's channels is left out


def tokenizer_files(told: Values) -> tuple[Prompting, ...]:
    """The tokenizers that have a file in the bundle."""
    listed = from_values(PipelineFields, told, "pipeline", strangers=True).tokenizers.values()
    return tuple(tokenizer for tokenizer in listed if tokenizer.path)


def check_pipeline(told: Values) -> None:
    """Refuses a field of `pipeline`, or of the networks in it, that is of a wrong type or out of range."""
    from_values(PipelineFields, told, "pipeline", strangers=True)
    networks = told.get("networks", {})
    if not isinstance(networks, dict):
        raise InputError("pipeline.networks must be an object.")
    for name, entry in networks.items():
        from_values(NetworkFields, entry, f"pipeline.networks.{name[:64]}", strangers=True)
