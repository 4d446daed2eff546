"""Concepts, the words that name them, and which of them training may see."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

STYLES = ("3d", "flat")
DEMO_PROMPTS = ("red heart", "dog", "cat", "pizza", "rocket", "sun")  # always in the training part
UNCOUNTED = {
    *("popcorn", "sushi", "broccoli", "corn", "cheese", "poop", "rofl", "lightning"),
    *("tennis", "planet earth", "one hundred"),
}
SOUNDED = ("unicorn", "ufo")  # begin with a vowel on paper only

PLAIN_TEMPLATES = ("{name}", "{a_name}", "{name} emoji", "an emoji of {a_name}", "a picture of {a_name}")
STYLE_TEMPLATES = (
    "{style} {name}",
    "{a_style_name}",
    "a {style} emoji of {a_name}",
    "{style} icon of {a_name}",
    "{a_name} in {style} style",
    "{name}, {style}",
)
SYNONYM_TEMPLATES = {
    "3d": ("{name}", "{a_name}", "{style} {name}"),
    "flat": ("{style} {name}", "{style} icon of {a_name}"),
}


def unit_hash(text: str, seed: int) -> float:
    """A number in [0,1) that depends on the text and the seed alone, on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:6], "big") / 2**48


@dataclass(frozen=True)
class Concept:
    """One thing to draw: its Unicode name, the name used in prompts, and other words for it."""

    unicode_name: str
    name: str
    synonyms: tuple[str, ...]


def common_concepts() -> list[Concept]:
    """The concepts of `recipes/common.txt`, in its order."""
    text = files("edgegen.train").joinpath("recipes/common.txt").read_text(encoding="utf-8")
    return parse_concepts(text)


def parse_concepts(text: str) -> list[Concept]:
    """Lines of `Unicode name [= prompt name] [| synonym]...`; '#' begins a comment."""
    lines = [line.split("#")[0].strip().lower() for line in text.splitlines()]
    return [_concept(line) for line in lines if line]


def _concept(line: str) -> Concept:
    names, *synonyms = (part.strip() for part in line.split("|"))
    unicode_name, _, name = (part.strip() for part in names.partition("="))
    return Concept(unicode_name, name or unicode_name, tuple(synonyms))


def with_article(name: str) -> str:
    """'a dog', 'an owl', 'grapes': the name as it stands in a sentence."""
    last = name.split(" with ")[0].split(" of ")[0].split()[-1]
    plural = last.endswith("s") and not last.endswith(("ss", "us"))
    if plural or name in UNCOUNTED or name.startswith("thumbs"):
        return name
    vowel = name[0] in "aeiou" and not name.startswith(SOUNDED)
    return f"{'an' if vowel else 'a'} {name}"


def captions(concept: Concept, style: str) -> list[str]:
    """Every caption of a concept in a style, the plainest first; no style word means 3d."""
    templates = (PLAIN_TEMPLATES if style == "3d" else ()) + STYLE_TEMPLATES
    said = [fill(template, concept.name, style) for template in templates]
    said += [fill(template, word, style) for word in concept.synonyms for template in SYNONYM_TEMPLATES[style]]
    return list(dict.fromkeys(said))


def fill(template: str, name: str, style: str) -> str:
    """A template's words; '{a_style_name}' has an article only where the name itself takes one."""
    a_name = with_article(name)
    a_style_name = f"{style} {name}" if a_name == name else f"a {style} {name}"
    return template.format(name=name, a_name=a_name, style=style, a_style_name=a_style_name)


def assign_splits(
    concepts: list[Concept], unseen_concepts: float = 0.08, unseen_styles: float = 0.15, seed: int = 0
) -> dict[tuple[str, str], str]:
    """'train', 'unseen_concept' or 'unseen_style' for each (concept name, style).

    Of all concepts `unseen_concepts` are held out whole; of the rest `unseen_styles` miss exactly one style.
    Hearts and the demo prompts are never held out.
    """
    free = [concept.name for concept in concepts if "heart" not in concept.name and concept.name not in DEMO_PROMPTS]
    free.sort(key=lambda name: unit_hash(name, seed))
    whole = round(unseen_concepts * len(concepts))
    partial = round(unseen_styles * (len(concepts) - whole))
    splits = {(concept.name, style): "train" for concept in concepts for style in STYLES}
    splits |= {(name, style): "unseen_concept" for name in free[:whole] for style in STYLES}
    splits |= {(name, _missing_style(name, seed)): "unseen_style" for name in free[whole : whole + partial]}
    return splits


def _missing_style(name: str, seed: int) -> str:
    return STYLES[int(unit_hash(f"style of {name}", seed) * len(STYLES))]
