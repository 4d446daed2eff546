"""What manifests of format 2 say of a pipeline is what diffusers' own pipeline is seen to do."""

import inspect
import json
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import check_bundle
import diffusers
import pytest
import torch
import transformers
from foreign import FAMILIES, build
from pipelines import PIPELINES, size_of
from tokenizers import Tokenizer

from edgegen.errors import InputError
from edgegen.foreign.data import copy_data, told_tokenizers
from edgegen.foreign.families.registry import family_of
from edgegen.foreign.observe import PROMPTS, call_arguments, observe
from edgegen.foreign.pipeline import guided
from edgegen.foreign.scheduler import named, told_configuration
from edgegen.foreign.sources import Size, open_sources
from edgegen.manifest_pipeline import check_pipeline

SCALE, PROMPT = 3.0, "A red cat"


def schnell() -> Any:
    made = PIPELINES["flux"]()
    kind, config = FAMILIES["flux"](layers=1)
    made.register_modules(transformer=build(kind, config | {"guidance_embeds": False}))
    return made


def klein_distilled() -> Any:
    made = PIPELINES["flux2"]()
    made.register_to_config(is_distilled=True)
    return made


MAKERS = PIPELINES | {"flux_schnell": schnell, "flux2_distilled": klein_distilled}
NAMED = {  # sampler, prediction, guidance
    "pixart": ("DPM-Solver++", "epsilon", "batch"),
    "pixart_alpha": ("DPM-Solver++", "epsilon", "batch"),
    "sd3": ("flow-matching Euler", "velocity", "batch"),
    "flux": ("flow-matching Euler", "velocity", "embedded"),
    "flux_schnell": ("flow-matching Euler", "velocity", "none"),
    "sana": ("flow-matching DPM-Solver++", "velocity", "batch"),
    "sana_sprint": ("SCM", "trigflow", "embedded"),
    "lumina_next": ("flow-matching Euler", "velocity", "batch"),
    "lumina2": ("flow-matching Euler", "velocity", "batch"),
    "flux2": ("flow-matching Euler", "velocity", "batch"),
    "flux2_distilled": ("flow-matching Euler", "velocity", "none"),
    "qwen_image": ("flow-matching Euler", "velocity", "batch"),
    "z_image": ("flow-matching Euler", "velocity", "batch"),
}


def drawn_at(name: str) -> tuple[tuple[int, int], int]:
    """Pixels and text tokens."""
    return size_of(name.removesuffix("_schnell").removesuffix("_distilled"))


@dataclass
class Watched:
    """One drawing of diffusers: what its parts were given, step by step."""

    noise: Any = None
    calls: list[list[tuple[dict[str, Any], Any]]] = field(default_factory=lambda: [[]])  # of the transformer
    steps: list[tuple[Any, Any, Any]] = field(default_factory=list)  # prediction, t, x
    encoded: dict[str, list[tuple[dict[str, Any], Any]]] = field(default_factory=dict)  # by text encoder
    last: Any = None
    decoded: Any = None


def drawn(name: str, pipeline: Any) -> Watched:
    """Two steps, guided as far as the pipeline takes it."""
    seen = Watched()
    forward, step, decode = pipeline.transformer.forward, pipeline.scheduler.step, pipeline.vae.decode
    prepare, signature = pipeline.prepare_latents, inspect.signature(pipeline.transformer.forward)

    def watched_forward(*args: Any, **given: Any) -> Any:
        made = forward(*args, **given)
        seen.calls[-1].append((dict(signature.bind(*args, **given).arguments), made))
        return made

    def watched_step(predicted: Any, t: Any, x: Any, **given: Any) -> Any:
        seen.steps.append((predicted, t, x))
        seen.calls.append([])
        made = step(predicted, t, x, **given)
        seen.last = made[0]
        return made

    def watched_decode(latents: Any, **given: Any) -> Any:
        seen.decoded = latents
        return decode(latents, **given)

    def watched_noise(*args: Any, **given: Any) -> Any:
        made = prepare(*args, **given)
        seen.noise = made[0] if isinstance(made, tuple) else made
        return made

    for part in (n for n in pipeline.components if n.startswith("text_encoder")):
        watch_encoder_(getattr(pipeline, part), seen.encoded.setdefault(part, []))
    pipeline.transformer.forward, pipeline.scheduler.step = watched_forward, watched_step
    pipeline.vae.decode, pipeline.prepare_latents = watched_decode, watched_noise
    pipeline.set_progress_bar_config(disable=True)
    asked = call_arguments(pipeline, PROMPT, *drawn_at(name))
    takes = inspect.signature(pipeline.__call__).parameters
    pipeline(**asked, num_inference_steps=2, generator=torch.Generator().manual_seed(5), **guided(takes, SCALE))
    seen.calls.pop()
    return seen


def watch_encoder_(encoder: Any, calls: list[tuple[dict[str, Any], Any]]) -> None:
    forward, signature = encoder.forward, inspect.signature(encoder.forward)

    def watched(*args: Any, **given: Any) -> Any:
        made = forward(*args, **given)
        calls.append((dict(signature.bind(*args, **given).arguments), made))
        return made

    encoder.forward = watched


@cache
def opened(name: str) -> tuple[dict[str, Any], Watched, Any]:
    """The manifest's `pipeline` of a tiny folder, what diffusers did, and its pipeline."""
    with TemporaryDirectory() as folder:
        pipeline = MAKERS[name]()
        pipeline.save_pretrained(folder)
        size, tokens = drawn_at(name)
        found = open_sources(Path(folder), Size(*size, tokens))
    told = found.details | {"networks": {source.name: source.details for source in found.sources}}
    return json.loads(json.dumps(told)), drawn(name, pipeline), pipeline


def rows(value: Any) -> torch.Tensor:
    """(B, ...) of a batch or of a list of pictures (C, 1, h, w), as they are scheduled."""
    return torch.stack(list(value)).squeeze(2) if isinstance(value, list) else value


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def evaluated(formula: str, told: dict[str, Any], **values: Any) -> Any:
    """A formula of a manifest with torch's functions and the scheduler's numbers."""
    functions = {name: getattr(torch, name) for name in ("sin", "cos", "sqrt")}
    return eval(formula, {"__builtins__": {}} | functions | told["scheduler"], values)  # noqa: S307


@pytest.mark.parametrize("name", MAKERS)
def test_a_manifest_names_what_the_folder_has(name):
    told, _, pipeline = opened(name)
    entry = told["networks"]["transformer"]
    assert told["class"] == type(pipeline).__name__
    config = pipeline.scheduler.config | {"class": type(pipeline.scheduler).__name__}
    assert len(told["scheduler"]) > 3 and all(config[key] == value for key, value in told["scheduler"].items())
    assert (entry["sampler"], entry["prediction"], entry["guidance"]) == NAMED[name]
    check_pipeline(told)


@pytest.mark.parametrize("name", MAKERS)
def test_a_pipeline_samples_as_its_manifest_says(name):
    told, seen, pipeline = opened(name)
    entry = told["networks"]["transformer"]
    assert close(seen.steps[0][2], evaluated(entry["noise"], told, x=seen.noise * told["sampling"]["init_noise_sigma"]))
    for calls, (predicted, t, x) in zip(seen.calls, seen.steps, strict=True):
        inputs = torch.cat([rows(given.get("hidden_states", given.get("x"))) for given, _ in calls])
        outputs = torch.cat([rows(made[0]) for _, made in calls])
        timestep = torch.as_tensor(calls[0][0].get("timestep", calls[0][0].get("t")))[:1].float()
        assert close(timestep, evaluated(entry["timestep"], told, t=t.float())[None].view(1))
        expected = evaluated(entry["input"], told, x=x, timestep=timestep.view(-1, *(1,) * (x.ndim - 1)))
        assert len(inputs) == (2 if entry["guidance"] == "batch" else 1) and close(inputs[:1], expected)
        assert (calls[0][0].get("guidance") is not None) == (entry["guidance"] == "embedded")
        if entry["learned_sigma"]:
            outputs = outputs.chunk(2, 1)[0]
        assert outputs.shape[1:] == x.shape[1:]
        values = {"input": inputs[:1], "timestep": timestep.view(-1, *(1,) * (x.ndim - 1))}
        found = [evaluated(entry["predicted"], told, output=one, **values) for one in combined(outputs, entry)]
        assert any(close(predicted, one) for one in found)


def combined(outputs: torch.Tensor, entry: dict[str, Any]) -> list[torch.Tensor]:
    """Of the outputs with and without the prompt, in either order, what guidance makes; the one where it is alone."""
    if entry["guidance"] != "batch":
        return [outputs]
    made = []
    for with_prompt, without in (outputs.split(1), reversed(outputs.split(1))):
        guided = eval(
            entry["guided"], {"__builtins__": {}}, {"with_prompt": with_prompt, "without": without, "scale": SCALE}
        )
        if count := entry.get("guidance_channels"):
            guided = torch.cat([guided[:, :count], with_prompt[:, count:]], 1)
        if entry.get("guidance_norm"):
            assert entry["guidance_norm"] == "last axis"
            guided = guided * with_prompt.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
        made.append(guided)
    return made


def unpacked(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(1, N, 4C) as (1, C, h, w): 2x2, channels outermost."""
    h, w = like.shape[-2] // 2, like.shape[-1] // 2
    return x.view(1, h, w, -1, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, -1, 2 * h, 2 * w)


@pytest.mark.parametrize("name", MAKERS)
def test_a_decoder_is_given_latents_as_the_manifest_says(name):
    told, seen, _ = opened(name)
    latents, x = told["latents"], evaluated(told["networks"]["transformer"]["final"], told, x=seen.last)
    scale, shift = torch.tensor(latents["scale"]), torch.tensor(latents["shift"])
    packed = latents["packing"] != "none"
    assert (
        latents["packing"]
        == told["networks"]["transformer"]["packing"]
        == ("2x2, channels outermost" if packed else "none")
    )
    assert packed == (x.ndim == 3)
    if latents["of"] == "packed":
        x = x * scale + shift
    if packed:
        x = unpacked(x, seen.decoded)
    if latents["of"] == "unpacked":
        x = x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
    assert close(seen.decoded, x.view(seen.decoded.shape))


def tokens_as_told(pipeline: Any, name: str, told: dict[str, Any]) -> torch.Tensor:
    """(1, L) ids of the prompt, as a manifest's entry of a tokenizer says."""
    prompt = PROMPT.lower() if told["lowercase"] else PROMPT
    tokenizer = getattr(pipeline, name)
    tokenizer.padding_side = told["padding_side"]
    padding = {"max_length": "max_length", "longest": True, "none": False}[told["padding"]]
    return tokenizer(
        told["before"] + prompt + told["after"], padding=padding, max_length=told["max_length"], truncation=True,
        add_special_tokens=told["add_special_tokens"], pad_to_multiple_of=told["multiple_of"] or None,
        return_tensors="pt",
    ).input_ids  # fmt: skip


def read(made: Any, output: str) -> torch.Tensor:
    """The tensor that a manifest calls so, of an encoder's result."""
    layer = output.removeprefix("hidden_states_")
    return made.hidden_states[int(layer)] if layer != output else getattr(made, output)


@pytest.mark.parametrize("name", MAKERS)
def test_a_transformer_is_given_text_as_the_manifest_says(name):
    """A prompt with a capital letter, through tokenizers and encoders, laid out by the blocks."""
    told, seen, pipeline = opened(name)
    results = {}
    for encoder, calls in seen.encoded.items():
        tokenizer = encoder.replace("text_encoder", "tokenizer")
        ids = tokens_as_told(pipeline, tokenizer, told["tokenizers"][tokenizer])
        given = [call for call in calls if call[0]["input_ids"].shape[1:] == ids.shape[1:]]
        (row, call), *_ = [(i, c) for c in given for i, own in enumerate(c[0]["input_ids"]) if torch.equal(own, ids[0])]
        results[encoder] = row, call
    assert {block["encoder"] for block in told["text"]} == set(results)
    for name in {block["input"] for block in told["text"]}:
        values = [row for given, _ in seen.calls[0] for row in given[name]]
        expected = torch.zeros_like(values[0] if name != "cap_feats" else max(values, key=len))
        for block in (block for block in told["text"] if block["input"] == name):
            row, (given, made) = results[block["encoder"]]
            value, (first, last) = read(made, block["output"])[row], block["features"]
            if "tokens" in block:
                start, end = block["tokens"]
                value = value[start : int(given["attention_mask"][row].sum()) if end is None else end]
                expected[block["at"] : block["at"] + len(value), first:last] = value
            else:
                expected[first:last] = value
        assert expected.std() > 0 and any(own.shape == expected.shape and close(own, expected) for own in values)


class Reached(Exception):  # noqa: N818
    """The transformer was called."""


@pytest.mark.parametrize("name", MAKERS)
def test_steps_are_the_pipelines_own(name, monkeypatch):
    told, _, pipeline = opened(name)
    takes, own = inspect.signature(pipeline.__call__).parameters, told["sampling"]

    def reached(*args: Any, **given: Any) -> None:
        raise Reached

    monkeypatch.setattr(pipeline.transformer, "forward", reached)
    (width, height), tokens = drawn_at(name)
    with pytest.raises(Reached):
        pipeline(**call_arguments(pipeline, PROMPT, (width, height), tokens))
    assert own["steps"] == takes["num_inference_steps"].default
    assert own["guidance_scale"] == (takes["guidance_scale"].default or 1.0)
    scheduler = pipeline.scheduler
    assert own["timesteps"] == scheduler.timesteps.tolist() and len(own["timesteps"]) >= own["steps"]
    assert own.get("sigmas", []) == getattr(scheduler, "sigmas", torch.zeros(0)).tolist()


def test_text_that_ends_with_the_prompt_is_told_so(tmp_path):
    """Qwen-Image drops its template, of 34 tokens, and gives the rest, however many."""
    PIPELINES["qwen_image"]().save_pretrained(tmp_path)
    (block,) = observe(tmp_path, (16, 16), 200).told["text"]
    assert block["tokens"] == [34, None] and block["at"] == 0


def test_the_contract_s_checker_reads_it_too(tmp_path):
    PIPELINES["flux"]().save_pretrained(tmp_path / "folder")
    copy_data(tmp_path / "folder", tmp_path)
    told = deepcopy(opened("flux")[0])
    told["tokenizers"] = told_tokenizers(tmp_path, told["tokenizers"])
    assert check_bundle.check_pipeline(tmp_path, told) == []
    file = tmp_path / told["tokenizers"]["tokenizer_2"]["path"]
    file.write_text(file.read_text() + " ")
    told["tokenizers"]["tokenizer"]["path"] = "../tokenizer.json"
    told["class"], told["networks"]["transformer"]["guidance"], told["sampling"]["sigmas"] = 5, "odd", ["a"]
    found = "\n".join(check_bundle.check_pipeline(tmp_path, told))
    for words in ("outside", "tokenizer_2: sha256 differs", "class is no name: 5", "is 'odd'", "sigmas are no numbers"):
        assert words in found


def test_a_tokenizer_in_parts_gets_the_file_that_apps_read(tmp_path):
    """As published ones of CLIP and Qwen are: a vocabulary and merges."""
    folder = tmp_path / "folder"
    PIPELINES["flux"]().save_pretrained(folder)
    file = folder / "tokenizer" / "tokenizer.json"
    model = json.loads(file.read_text())["model"]
    (file.parent / "vocab.json").write_text(json.dumps(model["vocab"]))
    (file.parent / "merges.txt").write_text("#version: 0.2\n")
    file.unlink()
    copy_data(folder, tmp_path)
    told = told_tokenizers(tmp_path, deepcopy(opened("flux")[0]["tokenizers"]))
    written = tmp_path / told["tokenizer"]["path"]
    assert written == tmp_path / "pipeline" / "tokenizer" / "tokenizer.json" and written.stat().st_size > 1000
    made = [transformers.CLIPTokenizer.from_pretrained(path) for path in (folder / "tokenizer", written.parent)]
    core = Tokenizer.from_file(str(written))
    for prompt in (*PROMPTS, "Two  words.", ""):
        expected = made[0](prompt).input_ids
        assert len(expected) >= 2 and made[1](prompt).input_ids == expected == core.encode(prompt).ids


def test_a_network_without_its_pipeline_is_named_by_its_configuration():
    family = family_of("SanaTransformer2DModel")
    plain, sprint = family.to_dict({"timestep_scale": 1000.0}), family.to_dict({"guidance_embeds": True})
    assert (plain["sampler"], plain["timestep"]) == ("flow-matching DPM-Solver++", "1000 * t")
    assert (sprint["sampler"], sprint["prediction"], sprint["guidance"]) == ("SCM", "trigflow", "embedded")
    assert "guided" in plain and "guided" not in sprint


WRONG = [(("class",), 5), (("scheduler",), "SCM"), (("scheduler", "class"), None), (("scheduler", "shift"), "3"),
         (("scheduler", "use_flow_sigmas"), 1), (("sampling", "steps"), -1), (("sampling", "sigmas"), ["a"]),
         (("sampling", "timesteps"), {"a": 1}), (("latents", "scale"), 2.0), (("latents", "of"), "both"),
         (("tokenizers",), []), (("tokenizers", "tokenizer", "before"), 7),
         (("tokenizers", "tokenizer", "padding"), "odd"),
         (("text",), {}), (("text", 0, "tokens"), [0]), (("text", 0, "features"), [0, "a"]),
         (("networks", "transformer", "guidance"), "odd"), (("networks", "transformer", "prediction"), []),
         (("networks",), [])]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda value: str(value)[:40])
def test_a_field_of_a_wrong_type_is_one_clear_error(path, value):
    told = deepcopy(opened("pixart")[0])
    holder = told
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    with pytest.raises(InputError, match="pipeline") as raised:
        check_pipeline(told)
    assert "\n" not in str(raised.value)


def test_older_bundles_and_what_later_ones_add_are_read():
    check_pipeline({"kind": "pipeline", "networks": {"transformer": {"class": "A", "sinusoids": []}}})
    check_pipeline({"kind": "network", "class": "A", "new": [1], "scheduler": {"class": "B", "new": None}})


@pytest.mark.parametrize(("kind", "settings", "sampler", "prediction"), [
    (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++", "prediction_type": "v_prediction"},
     "SDE DPM-Solver++", "v_prediction"),
    (diffusers.DDIMScheduler, {}, "DDIMScheduler", "epsilon"),
    (diffusers.FlowMatchHeunDiscreteScheduler, {}, "flow-matching Heun", "velocity"),
    (diffusers.UniPCMultistepScheduler, {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
     "UniPCMultistepScheduler", "velocity"),
])  # fmt: skip
def test_other_samplers_are_named(kind, settings, sampler, prediction):
    told = told_configuration(kind.__name__, kind(**settings).config)
    assert named(told) == {"sampler": sampler, "prediction": prediction}
