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
    """The concepts of `common.txt`, in its order."""
    text = files("edgegen.emoji").joinpath("common.txt").read_text(encoding="utf-8")
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


@dataclass(frozen=True)
class Saying:
    """A caption and what it is about; captions about one thing are near-duplicates, so splits go by subject."""

    text: str
    subject: str


def text_corpus(names: list[str], keywords: list[str], words: list[str], seed: int = 0) -> list[Saying]:
    """What the text encoders learn to read: captions of every emoji, keyword and common word, and compositions."""
    sayings = [Saying(text, c.name) for c in common_concepts() for style in STYLES for text in captions(c, style)]
    for subject in names:
        sayings += [Saying(text, subject) for text in (subject, *_some_templates(subject, 2, seed))]
    for subject in keywords:
        sayings += [Saying(text, subject) for text in (subject, *_some_templates(subject, 1, seed))]
    for subject in words:
        sayings += [Saying(text, subject) for text in _some_templates(subject, 1, seed)]
    sayings += _compositions([c.name for c in common_concepts()], seed)
    sayings.append(Saying("", ""))
    return sorted(set(sayings), key=lambda saying: (saying.text, saying.subject))


def _some_templates(name: str, count: int, seed: int) -> list[str]:
    pairs = [("3d", template) for template in PLAIN_TEMPLATES]
    pairs += [(style, template) for style in STYLES for template in STYLE_TEMPLATES]
    pairs.sort(key=lambda pair: unit_hash(f"{name}{pair}", seed))
    return [fill(template, name, style) for style, template in pairs[:count]]


def _compositions(names: list[str], seed: int, count: int = 5000) -> list[Saying]:
    """Two things together, one beside the other, or one in a colour."""
    colours = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white", "brown")
    forms = (
        "{a} and {b}",
        "{a} on the left of {b}",
        "{a} above {b}",
        "{colour} {name}",
        "two of {a}",
        "{a} on a {colour} background",
    )
    sayings = []
    for index in range(count):
        draw = [unit_hash(f"{part} {index}", seed) for part in ("form", "first", "second", "colour")]
        first, second = names[int(draw[1] * len(names))], names[int(draw[2] * len(names))]
        form, colour = forms[int(draw[0] * len(forms))], colours[int(draw[3] * len(colours))]
        text = form.format(a=with_article(first), b=with_article(second), name=first, colour=colour)
        sayings.append(Saying(text, text))
    return sayings
