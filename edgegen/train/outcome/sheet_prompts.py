"""Which prompts a contact sheet shows, and what training knew of them."""

from __future__ import annotations

from collections.abc import Sequence

from edgegen.emoji.captions import STYLES, assign_splits, captions, common_concepts, fill
from edgegen.emoji.scenes import KINDS, SceneSource
from edgegen.train.outcome.sheet import Group

TITLES = {
    "train": "Seen in training",
    "unseen_style": "Not seen: the thing is known, but not in this style",
    "unseen_concept": "Not seen: the thing itself was held out",
    "": "Not seen: other words",
}
SEEN_3D = (
    "red heart", "dog", "cat", "pizza", "rocket", "sun", "rose", "strawberry", "hamburger", "car", "house", "frog",
    "robot", "rainbow", "guitar", "snowman",
)  # fmt: skip
SEEN_FLAT = ("red heart", "pizza", "rocket", "cactus", "butterfly", "camera", "crown", "key")
OTHER = ("a green heart with a red bow", "four cats", "a burning house", "a flat brown owl with glasses")
UNSEEN_SHOWN = 8
SCENE_TITLES = {
    "train": "Scenes never seen, of things, colours, numbers and pairs that training saw",
    "combinations": "Scenes of a colour and a thing, a number of a thing, or a pair that training never saw together",
    "concepts": "Scenes of things that training never saw",
}
SCENES_A_KIND = {"train": 3, "combinations": 2, "concepts": 1}  # shown, of each of GenEval's tasks
SCENES_LOOKED_AT = 200
SCENE_SEED = 7_002  # like evaluation's, far from those that training's pools begin at


def split_of_captions() -> dict[str, str]:
    """'train', 'unseen_style' or 'unseen_concept' of every caption; one that training saw in any style is 'train'."""
    concepts = common_concepts()
    splits = assign_splits(concepts)
    found: dict[str, str] = {}
    for concept in concepts:
        for style in STYLES:
            for caption in captions(concept, style):
                if found.get(caption) != "train":
                    found[caption] = splits[concept.name, style]
    return found


def default_prompts() -> list[str]:
    """Common things in both styles, what was held out, and words that no caption has."""
    splits = assign_splits(common_concepts())
    wanted = [(name, "3d") for name in SEEN_3D] + [(name, "flat") for name in SEEN_FLAT]
    prompts = [say(name, style) for name, style in wanted if splits[name, style] == "train"]
    for kind in ("unseen_style", "unseen_concept"):
        held_out = [pair for pair, split in splits.items() if split == kind]
        step = max(1, len(held_out) // UNSEEN_SHOWN)
        prompts += [say(*pair) for pair in held_out[::step][:UNSEEN_SHOWN]]
    return [*prompts, *OTHER]


def scene_groups() -> list[Group]:
    """The first few scenes of each kind, in each split, by their captions."""
    groups = []
    for split, title in SCENE_TITLES.items():
        source, found = SceneSource(split, SCENE_SEED, captions=1), {kind: list[str]() for kind in KINDS}
        for index in range(SCENES_LOOKED_AT):
            scene = source[index]
            if len(found[scene.kind]) < SCENES_A_KIND[split] and scene.captions[0] not in found[scene.kind]:
                found[scene.kind].append(scene.captions[0])
        groups.append(Group(title, tuple(prompt for prompts in found.values() for prompt in prompts)))
    return groups


def say(name: str, style: str) -> str:
    """'a dog' for 3d, which is what captions without a style mean; 'a flat dog'."""
    return fill("{a_name}" if style == "3d" else "{a_style_name}", name, style)


def default_groups() -> list[Group]:
    """Scenes, then single emoji and other words."""
    return [*scene_groups(), *group_prompts(default_prompts())]


def group_prompts(prompts: Sequence[str]) -> list[Group]:
    """The prompts by what training knew of them, each once."""
    splits = split_of_captions()
    groups = {kind: [p for p in dict.fromkeys(prompts) if splits.get(p.lower(), "") == kind] for kind in TITLES}
    return [Group(TITLES[kind], tuple(members)) for kind, members in groups.items() if members]
